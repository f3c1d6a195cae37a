# What one agent does in its worktree. Each thing is written down in the log once it is done, so that
# the audit knows what must still exist, whenever this process, or any other, was killed.
#   $1 the log  $2 the agent's own name  $3 where it is noted who works in which slot
set -eu
log=$1 me=$2 working=$3/$(basename "$(dirname "$PWD")")

say() { printf '%s\n' "$*" >>"$log"; }
# A git that was killed says nothing, and ends this too.
wrote() { id=$(git hash-object --no-filters "$1") && say "object $id $1"; }
committed() { id=$(git rev-parse HEAD) && say "commit $id"; }
# Its state and when it started; nothing, if there is no such process.
process() { sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f1,20; }
alone() {
  for file in run-*; do
    case $file in "run-*" | "run-$me" | "run-$me"[.\ ]*) ;; *) say "violation $me sees $file in $PWD" ;; esac
  done
}

say "begin $PWD"
# Another agent that works here, and lives: two have been given the same slot.
if read -r other pid start <"$working" 2>/dev/null; then
  now=$(process "$pid" || true)
  case $now in
    "Z "* | "X "* | "") ;;
    *" $start") say "violation $me and $other are both in $PWD" ;;
  esac
fi
own=$(process $$)
echo "$me $$ ${own#* }" >"$working"
alone
[ -z "$(git status --porcelain)" ] || say "violation $me starts in a dirty worktree $PWD"
echo "$me committed" >"run-$me"
wrote "run-$me"
git add "run-$me"
git commit --quiet --message "work of $me"
committed
echo "$me untracked" >"run-$me untracked"
wrote "run-$me untracked"
mkdir "run-$me.d"
echo "$me ignored" >"run-$me.d/secret.env"
wrote "run-$me.d/secret.env"
echo "$me staged" >tracked-1.txt
git add tracked-1.txt
wrote tracked-1.txt
echo "$me modified after staging" >tracked-1.txt
wrote tracked-1.txt
echo "$me modified" >tracked-2.txt
wrote tracked-2.txt
rm tracked-3.txt
git checkout --quiet --detach
echo "$me detached" >"run-$me detached"
git add "run-$me detached"
git commit --quiet --message "detached work of $me"
committed
alone
rm -f "$working"
say "end"
