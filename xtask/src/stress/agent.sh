# What one agent does in its worktree. Each thing is written down in the log once it is done, so that
# the audit knows what must still exist, whenever this process or its parent was killed.
#   $1 the log  $2 the agent's own name  $3 its fate: lives | dies | kills-parent
set -eu
log=$1 me=$2 fate=$3

say() { printf '%s\n' "$*" >>"$log"; }
wrote() { say "object $(git hash-object --no-filters "$1") $1"; }
# Dies or kills in about one of seven steps, so that any step may be the last.
step() {
  case $fate:$(( ($(date +%N | sed 's/^0*//') / 1000 + $$) % 7 )) in
    dies:0) kill -9 $$ ;;
    kills-parent:0) fate=lives; kill -9 $PPID ;;
  esac
}
alone() {
  for file in run-*; do
    case $file in "run-*" | "run-$me" | "run-$me"[.\ ]*) ;; *) say "violation $me sees $file in $PWD" ;; esac
  done
}

say "begin $PWD"
alone
[ -z "$(git status --porcelain)" ] || say "violation $me starts in a dirty worktree $PWD"
step
echo "$me committed" >"run-$me"
wrote "run-$me"
git add "run-$me"
step
git commit --quiet --message "work of $me"
say "commit $(git rev-parse HEAD)"
step
echo "$me untracked" >"run-$me untracked"
wrote "run-$me untracked"
step
mkdir "run-$me.d"
echo "$me ignored" >"run-$me.d/secret.env"
wrote "run-$me.d/secret.env"
step
echo "$me staged" >tracked-1.txt
git add tracked-1.txt
wrote tracked-1.txt
step
echo "$me modified after staging" >tracked-1.txt
wrote tracked-1.txt
echo "$me modified" >tracked-2.txt
wrote tracked-2.txt
rm tracked-3.txt
step
git checkout --quiet --detach
echo "$me detached" >"run-$me detached"
git add "run-$me detached"
git commit --quiet --message "detached work of $me"
say "commit $(git rev-parse HEAD)"
step
sleep 0.2
alone
say "end"
