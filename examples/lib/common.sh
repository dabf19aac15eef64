# shellcheck shell=bash
# Messages, stages with stamps, and locks. Sourced by lib.sh.

LOCKS=()

say() {
  printf '%s [%s %s] %s\n' "$(date +%H:%M:%S)" "$SET" "${RECIPE:-}" "$*" >&2
}

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Print the absolute path of a folder that exists.
absolute() {
  (cd "$1" && pwd)
}

# fairseq's programs beside the interpreter, so that no other installation is met.
check_tools() {
  local scripts
  command -v "$PYTHON" >/dev/null 2>&1 || die "no interpreter $PYTHON; set PYTHON to one that has fairseq"
  scripts=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
  FAIRSEQ="$scripts/fairseq"
  [ -x "$FAIRSEQ-train" ] || die "$FAIRSEQ-train does not exist; install fairseq for $PYTHON (see README.md) or set PYTHON"
}

# Print one checksum over files, to notice that an input of a stage changed.
checksum() {
  cat -- "$@" | cksum | tr ' ' '-'
}

# differences BEFORE NOW: what two lists of options do not have in common, in one line.
differences() {
  local before now
  before=$(mktemp) now=$(mktemp)
  awk '{ gsub(/ (--|[a-z]*=)/, "\n&"); print }' <<<"$1" | sort >"$before"
  awk '{ gsub(/ (--|[a-z]*=)/, "\n&"); print }' <<<"$2" | sort >"$now"
  printf 'before «%s», now «%s»' "$(comm -23 "$before" "$now" | paste -s -d ' ' -)" \
    "$(comm -13 "$before" "$now" | paste -s -d ' ' -)"
  rm -f "$before" "$now"
}

# stage DIR NAME INPUTS COMMAND…: run COMMAND, unless a stamp says that it finished with INPUTS.
# Other inputs are an error: what stands in DIR may be in use by other runs.
stage() {
  local dir=$1 name=$2 inputs=$3 stamp="$1/.stamps/$2"
  shift 3
  if [ -f "$stamp" ]; then
    if [ "$(cat "$stamp")" = "$inputs" ]; then
      say "$name: done before, skipped"
      return 0
    fi
    die "$dir: stage $name was finished with other inputs: $(differences "$(cat "$stamp")" "$inputs"); give another folder, or delete this one"
  fi
  say "$name"
  "$@"
  put_stamp "$stamp" "$inputs"
}

# The same, but done again when the inputs changed: for what is cheap and used by this run alone.
stage_again() {
  local stamp="$1/.stamps/$2"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" != "$3" ]; then
    rm -f "$stamp"
  fi
  stage "$@"
}

put_stamp() {
  mkdir -p "$(dirname "$1")"
  printf '%s\n' "$2" >"$1.tmp"
  mv -f "$1.tmp" "$1"
}

# lock_folder FOLDER wait|fail: hold a folder until unlock_folder or the end of this script.
lock_folder() {
  local lock="$1/.lock" owner told=
  until mkdir "$lock" 2>/dev/null; do
    owner=$(cat "$lock/pid" 2>/dev/null || true)
    if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
      rm -rf "$lock" # its owner died
      continue
    fi
    [ "$2" = wait ] || die "$1 is in use by process ${owner:-?}; wait for it, or delete $lock if it is gone"
    [ -n "$told" ] || say "waiting for process ${owner:-?}, which prepares $1 (if it is gone, delete $lock)"
    told=1
    sleep 1
  done
  echo "$$" >"$lock/pid"
  LOCKS+=("$lock")
  trap 'rm -rf ${LOCKS[@]+"${LOCKS[@]}"}' EXIT
}

unlock_folder() {
  local lock kept=()
  rm -rf "$1/.lock"
  # by the end of this script another may hold it
  for lock in ${LOCKS[@]+"${LOCKS[@]}"}; do
    [ "$lock" = "$1/.lock" ] || kept+=("$lock")
  done
  LOCKS=(${kept[@]+"${kept[@]}"})
}

# Run a program of fairseq and show its log on stderr, without what nobody reads: the dump of its
# configuration, the layers of the model, warnings from other libraries.
quietly() {
  PYTHONWARNINGS=ignore "$@" 2>&1 | readable >&2
}

readable() {
  grep --line-buffered -v -E "'_name':|Namespace\\(|^ *[()]|^Transformer|^LSTM|^Continuous|tensorboardX|DEBUG:hydra|^ +(deprecation_warning|self\.delegate|sys\.exit)" || true
}
