#!/bin/sh
# Puts the image's model repository into a volume that Triton reads. Models that were added to the
# volume by hand stay; ours are brought up to date.
#
# A model's files go beside the old ones first and are then renamed, so that a Triton that is
# reading meets either the old file or the new one, never half of one.
set -eu
from=${1:-/opt/model_repository}
to=${2:-/models}

cd "$from"
find . -type d | while read -r folder; do mkdir -p "$to/$folder"; done
find . -type f | while read -r file; do
    if ! cmp -s "$file" "$to/$file"; then
        cp "$file" "$to/$file.unfinished"
        mv "$to/$file.unfinished" "$to/$file"
        echo "wrote $to/${file#./}"
    fi
done
