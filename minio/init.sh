#!/bin/sh
# Makes the buckets and the user that Tidemill is, with no more rights than minio/policy.json. Running it again changes
# nothing but a changed policy or password. Runs in the image minio/mc, by docker-compose.yml.
set -eu

: "${MINIO_URL:?}" "${MINIO_ROOT_USER:?}" "${MINIO_ROOT_PASSWORD:?}" "${TIDEMILL_S3_ACCESS_KEY:?}" "${TIDEMILL_S3_SECRET_KEY:?}"
here=$(dirname "$0")

# The container is new each time, and so is this: nothing is kept in it.
export MC_CONFIG_DIR=/tmp/mc

mc alias set lake "$MINIO_URL" "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD" >/dev/null

# lake: Delta tables. Not versioned: Delta keeps its own history, and old versions would outlive VACUUM.
mc mb --ignore-existing lake/lake
# inbox: files to be picked up. Others write here, Tidemill reads.
mc mb --ignore-existing lake/inbox

mc admin policy create lake tidemill "$here/policy.json"
mc admin user add lake "$TIDEMILL_S3_ACCESS_KEY" "$TIDEMILL_S3_SECRET_KEY"
# Attaching what is attached already is an error to mc, and none to us: what counts is that it is attached.
if ! said=$(mc admin policy attach lake tidemill --user "$TIDEMILL_S3_ACCESS_KEY" 2>&1); then
  case $(mc admin user info lake "$TIDEMILL_S3_ACCESS_KEY") in
    *PolicyName:*tidemill*) ;;
    *) echo "$said" >&2; exit 1 ;;
  esac
fi

echo "buckets: lake (read and write), inbox (read); user: $TIDEMILL_S3_ACCESS_KEY"
