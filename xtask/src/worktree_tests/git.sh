#!/bin/sh
# Stands in for git in git's own tests: where `git worktree add` and a lease mean the same, wtpool makes
# the worktree, which is then moved to where the test wants it. Everything else is git's.
#   $REAL_GIT, $WTPOOL  the programs    $STAND_IN  a directory for pools, and the log of what was made how
case " $* " in
*" worktree add "*) ;;
*) exec "$REAL_GIT" "$@" ;;
esac

say() { printf '# %s\n' "$*" >>"$STAND_IN/log"; }
# Leaves it to git, and says why.
leave() {
  why=$1
  shift
  say "git: $why"
  exec "$REAL_GIT" "$@"
}

# What is asked for. A function, since it takes its arguments apart.
dir=. branch= detach= path= rev= lock= reason= odd=
understand() {
  while [ "$1" != worktree ]; do
    case $1 in
    -C) dir=$2; shift 2 ;;
    *) odd="the option $1 of git itself"; return ;;
    esac
  done
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
    --detach | -d) detach=1 ;;
    -b) branch=$2; shift ;;
    --lock) lock=1 ;;
    --reason) reason=$2; shift ;;
    --quiet | -q | --checkout) ;;
    -) rev='@{-1}' ;;
    -*) odd="the option $1"; return ;;
    *)
      if [ -z "$path" ]; then path=$1
      elif [ -z "$rev" ]; then rev=$1
      else odd="more arguments than a worktree has"; return
      fi ;;
    esac
    shift
  done
}
understand "$@"
git() { "$REAL_GIT" -C "$dir" "$@"; }
[ -z "$odd" ] || leave "$odd" "$@"
[ -n "$path" ] || leave "no path" "$@"
[ -z "$branch" ] || [ -z "$detach" ] || leave "a branch, and none" "$@"
[ -z "$reason" ] || [ -n "$lock" ] || leave "a reason for no lock" "$@"
git rev-parse --verify --quiet HEAD >/dev/null || leave "there is no commit yet" "$@"
[ "$(git config --type=bool worktree.guessRemote)" != true ] || leave "a guess at a remote's branch" "$@"
name=$(basename "$path")
case $name in *[!A-Za-z0-9-]*) leave "a name that git would change" "$@" ;; esac

# A new branch, one that there is, or none.
is_branch() { git show-ref --verify --quiet "refs/heads/$1"; }
if [ "$rev" = '@{-1}' ]; then
  rev=$(git rev-parse --abbrev-ref '@{-1}' 2>/dev/null) || leave "no earlier branch" "$@"
fi
if [ -z "$detach" ] && [ -z "$branch" ]; then
  if [ -z "$rev" ]; then branch=$name
  elif is_branch "$rev"; then branch=$rev rev=
  else detach=1
  fi
elif [ -n "$branch" ] && is_branch "$branch"; then
  leave "a new branch that there is" "$@"
fi
set -- "$@" # from here on they are only handed on
commit=
if [ -n "$rev" ] || [ -n "$detach" ] || ! is_branch "$branch"; then
  commit=$(git rev-parse --verify --quiet "${rev:-HEAD}^{commit}") || leave "a revision that has to be guessed" "$@"
fi
case $(git rev-parse --symbolic-full-name "${rev:-HEAD}" 2>/dev/null) in
refs/remotes/*) leave "a branch that follows a remote's" "$@" ;;
esac

case $path in /*) target=$path ;; *) target=$(cd "$dir" && pwd -P)/$path ;; esac
if [ -e "$target" ] && ! rmdir "$target" 2>/dev/null; then leave "something is at its place" "$@"; fi
common=$(git rev-parse --path-format=absolute --git-common-dir) || exit 128
# What git asks of the registrations that there are.
for registered in "$common"/worktrees/*/gitdir; do
  if [ -f "$registered" ] && [ "$(cat "$registered")" = "$target/.git" ]; then
    leave "a place that is registered already" "$@"
  fi
done

pool=$(mktemp -d "$STAND_IN/pool-XXXXXX") && rmdir "$pool" || exit 128
lease() { (cd "$dir" && unset GIT_DIR && "$WTPOOL" --pool-dir "$pool" --quiet acquire --name stand-in --wait 0s --cache private "$@"); }
if [ -n "$detach" ]; then slot=$(lease --detach --base "$commit")
elif [ -n "$commit" ]; then slot=$(lease --branch "$branch" --base "$commit")
else slot=$(lease --branch "$branch")
fi || {
  say "wtpool refused $name"
  rm -rf "$pool"
  exit 128
}
admin=$(sed 's/^gitdir: //' "$slot/.git")
id=$name number=0
while [ -e "$common/worktrees/$id" ]; do number=$((number + 1)) id=$name$number; done
mkdir -p "$(dirname "$target")" &&
  target=$(cd "$(dirname "$target")" && pwd -P)/$name &&
  mv "$slot" "$target" &&
  { [ "$admin" = "$common/worktrees/$id" ] || mv "$admin" "$common/worktrees/$id"; } &&
  printf 'gitdir: %s\n' "$common/worktrees/$id" >"$target/.git" &&
  printf '%s\n' "$target/.git" >"$common/worktrees/$id/gitdir" || exit 128
# With the pool its reaper goes, and the lease is nobody's. It may be writing there just now.
rm -rf "$pool" 2>/dev/null || { sleep 1 && rm -rf "$pool"; }
say "wtpool made $name"
if [ -n "$lock" ]; then git worktree lock ${reason:+--reason "$reason"} "$target"; fi
