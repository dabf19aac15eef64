# shellcheck shell=bash
# Multi30k between two of its languages: what the recipes of that set share.

# shellcheck source=small.sh
. "$LIB/small.sh"

SET=multi30k.$SOURCE_LANG-$TARGET_LANG TEST_NAME=test_2016_flickr
: "${SUBWORDS:=6000}" "${FASTTEXT_EPOCHS:=10}"
TRAIN_OPTIONS+=(--max-epoch 7)

corpus() {
  local url=https://github.com/multi30k/dataset/raw/master/data/task1/raw lang
  for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
    echo "train $lang plain train.$lang - $url/train.$lang.gz"
    echo "valid $lang plain val.$lang - $url/val.$lang.gz"
    echo "test $lang plain test_2016_flickr.$lang - $url/test_2016_flickr.$lang.gz"
  done
}
