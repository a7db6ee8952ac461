# shellcheck shell=bash
# What `up` and `down` share: where things are, one lock, and stopping what was started by its own process id.
#
# cache/jars-NAME-SUM, cache/venv-NAME-SUM   programs; kept, used again; SUM is of the file that pins the versions
# state/NAME/process                         "PID START": START is the kernel's start time, so a used-again id is never signalled
# state/NAME/data                            one line: the service's private data folder
# state/NAME/exports                         the lines `up` prints for it; written last, when it has answered
# state/NAME/log                             what the service said

cache=${TIDEMILL_SERVICES_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidemill/services}
state=${TIDEMILL_SERVICES_DIR:-$cache/run}

say() { printf '%s\n' "services: $*" >&2; }

# Only one `up` or `down` at a time for a state folder. Started services do not inherit descriptor 9.
lock() {
  mkdir -p "$cache" "$state" || return 1
  command -v flock >/dev/null || return 0
  exec 9>"$state/lock"
  flock -w 900 9 || { say "another up or down has held $state/lock for 15 minutes"; return 1; }
}

# Prints when process $1 started, or fails if there is none.
started() {
  if [ -r "/proc/$1/stat" ]; then
    local line
    line=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The second field is the command in parentheses and may hold spaces: count from behind it.
    # shellcheck disable=SC2086
    set -- ${line##*) }
    [ "$1" != Z ] || return 1
    printf '%s\n' "${20}"
  elif [ ! -d /proc/self ]; then
    ps -o lstart= -p "$1" | tr -s ' ' '_' | grep .
  else
    return 1
  fi
}

# Is service $1 still the process that we started?
alive() {
  local pid start
  read -r pid start 2>/dev/null <"$state/$1/process" || return 1
  [ -n "$start" ] && [ "$(started "$pid")" = "$start" ]
}

# Stops service $1, if it runs, and removes its data. TERM first, KILL after $2 seconds.
stop() {
  local name=$1 patience=${2:-20} pid start data signal=TERM
  [ -d "$state/$name" ] || return 0
  if alive "$name"; then
    read -r pid start <"$state/$name/process"
    # PostgreSQL takes TERM as "when the last client has gone", INT as "now, in good order".
    [ "$name" = postgres ] && signal=INT
    kill -"$signal" "$pid" 2>/dev/null
    local tries=$((patience * 10))
    while alive "$name" && [ $tries -gt 0 ]; do sleep 0.1; tries=$((tries - 1)); done
    if alive "$name"; then
      # It leads its own session (see `detach`): take its children too.
      kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null
      tries=50
      while alive "$name" && [ $tries -gt 0 ]; do sleep 0.1; tries=$((tries - 1)); done
    fi
    alive "$name" && { say "$name (process $pid) does not stop"; return 1; }
    say "stopped $name"
  fi
  if read -r data 2>/dev/null <"$state/$name/data"; then
    case $data in
      */tidemill-"$name".*) rm -rf -- "$data" ;;
    esac
  fi
  rm -rf -- "${state:?}/$name"
}
