#!/usr/bin/env bash
# Multi30k, English → German: 29,000 image captions (Desmond Elliott, Stella Frank, Khalil Sima'an
# and Lucia Specia, 2016, https://aclanthology.org/W16-3210). Licence: non-commercial research.
#
#   [DATA_DIR=…] examples/multi30k.en-de/run.sh RECIPE OUT_DIR [more fairseq-train options]
#
# DATA_DIR holds train, val and test_2016_flickr, each .de and .en (plain, .gz or .xz), as in
# data/task1/raw of the repository multi30k/dataset.
# Text: lower-cased and Moses-tokenised; scored detokenised against the published references,
# without case (case:lc in the signature).
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SOURCE_LANG=en TARGET_LANG=de
# shellcheck source=../lib/multi30k.sh
. "$LIB/multi30k.sh"

recipe_main "$@"
