# shellcheck shell=bash
# From a data set's own files to binarised text and target table, in PREP_DIR. Sourced by lib.sh.
#
# corpus() of a run.sh prints one line a file: SPLIT LANG KIND MEMBER ARCHIVE URL
#   SPLIT    train, valid or test; several lines of one split and language are joined in order
#   KIND     plain (a sentence a line), tags (TED training text) or seg (<seg> of SGML or XML)
#   MEMBER   path inside ARCHIVE or DATA_DIR, also as MEMBER.gz or MEMBER.xz; a,b: a or b
#   ARCHIVE  .tgz, .tar or .zip that holds it, or - for none
#   URL      where ARCHIVE, or MEMBER itself, is to be had

prepare() {
  lock_folder "$PREP_DIR" wait # a second run that shares it waits, and then finds it done
  RAW=$PREP_DIR/raw CLEAN=$PREP_DIR/clean PIECES=$PREP_DIR/pieces BIN_DIR=$PREP_DIR/bin
  SUBWORD_MODEL=$PREP_DIR/subwords.codes
  [ "$SUBWORD_METHOD" != sentencepiece ] || SUBWORD_MODEL=$PREP_DIR/subwords.model
  find_data_dir
  if declare -F recipe_layout >/dev/null; then
    recipe_layout # a data set that comes in more than one form looks which one it is
  fi
  stage "$PREP_DIR" data "${DATA_DIR:-download}" stage_data
  stage "$PREP_DIR" clean "$SOURCE_LANG-$TARGET_LANG tokenize=$TOKENIZE lowercase=$LOWERCASE length=$MAX_LENGTH ratio=$MAX_RATIO valid-every=$VALID_EVERY" stage_clean
  stage "$PREP_DIR" subwords "$SUBWORD_METHOD $SUBWORDS seed=$PREP_SEED${BPE_DROPOUT:+ dropout=$BPE_DROPOUT segmentations=$SEGMENTATIONS}" stage_subwords
  stage "$PREP_DIR" binarise "fairseq-preprocess${PREPROCESS_OPTIONS[*]+ ${PREPROCESS_OPTIONS[*]}}${BINARISE_INPUTS:+ $BINARISE_INPUTS}" stage_binarise
  TABLE='' ENCODER_VECTORS='' DECODER_VECTORS='' BEGINNING=''
  [ "$OUTPUT" != frozen ] || prepare_table "${TABLE_TEXT:-target}"
  case $INITIAL in
    table | language-model) prepare_table both ;;
  esac
  case $INITIAL in
    table | inputs) prepare_inputs ;;
  esac
  unlock_folder "$PREP_DIR"
}

# Make DATA_DIR absolute. That of the first run serves the later ones, which need not name it again.
find_data_dir() {
  if [ -z "$DATA_DIR" ] && [ -f "$PREP_DIR/.stamps/data" ]; then
    DATA_DIR=$(sed 's/^download$//' "$PREP_DIR/.stamps/data")
  elif [ -n "$DATA_DIR" ]; then
    [ -d "$DATA_DIR" ] || die "DATA_DIR must be a folder with the files of $SET, but $DATA_DIR is none"
    DATA_DIR=$(absolute "$DATA_DIR")
  fi
}

joined_dictionary() {
  [[ " ${PREPROCESS_OPTIONS[*]-} " == *" --joined-dictionary "* ]]
}

# A learned table is then the decoder's input embedding, too.
tied_table() {
  [ "$TIED" = 1 ] && [[ "${SOFTMAX_OPTIONS[*]-}" == *--share-* ]]
}

# The decoder reads rows of the frozen table.
reads_table() {
  [ "$OUTPUT" = frozen ] && [[ " ${CONTINUOUS_OPTIONS[*]-}" == *" --decoder-input table"* ]]
}

# fasttext_names SIDE: the text that fastText reads, of the target language; where SIDE is both, the
# sentences of both languages with interleaved words: translations are near then.
fasttext_names() {
  TRAINING_TEXT=$PIECES/train
  [ -z "$BPE_DROPOUT" ] || TRAINING_TEXT=$PIECES/dropout # or some rows would be of pieces it never met
  FASTTEXT_INPUT=$TRAINING_TEXT.$TARGET_LANG FASTTEXT_NAME=fasttext
  if [ "$1" = both ]; then
    FASTTEXT_INPUT=$PIECES/train.mixed FASTTEXT_NAME=fasttext-mixed
  fi
}

mix_parallel() {
  [ "$FASTTEXT_NAME" = fasttext-mixed ] || return 0
  stage "$PREP_DIR" mixed "" "$PYTHON" "$ROOT/preprocess/mix_parallel.py" \
    --input "$TRAINING_TEXT.$SOURCE_LANG" "$TRAINING_TEXT.$TARGET_LANG" --output "$FASTTEXT_INPUT"
}

# ENCODER_VECTORS and DECODER_VECTORS, which input embeddings begin with: none for those that are
# shared with others. With a learned table they are of its space, or there are none.
prepare_inputs() {
  local table=$TABLE
  if [ "$INITIAL" = table ]; then
    joined_dictionary && [ "$TIED" = 1 ] && return
    [ "$TABLE_SOURCE" = fasttext ] && [ -z "$VECTORS" ] || return 0
  fi
  local TABLE_SOURCE=fasttext VECTORS='' TABLE_OPTIONS=--center TABLE_DIM=${EMBED_DIM:-$TABLE_DIM}
  if joined_dictionary; then # what the encoder reads serves the decoder
    export_inputs "$TARGET_LANG"
    ENCODER_VECTORS=$EXPORTED
  else
    export_inputs "$SOURCE_LANG"
    ENCODER_VECTORS=$EXPORTED
    if reads_table; then
      : # through a projection: the decoder has no embeddings
    elif [ "$INITIAL" = inputs ] || ! tied_table; then
      export_inputs "$TARGET_LANG"
      DECODER_VECTORS=$EXPORTED
    fi
  fi
  TABLE=$table
}

# export_inputs LANG: EXPORTED, a file with the vectors of LANG's symbols.
export_inputs() {
  prepare_table both "$1"
  EXPORTED=${TABLE%.safetensors}.vec
  stage "$PREP_DIR" "$(basename "$EXPORTED")" "$(checksum "$TABLE")" \
    "$PYTHON" "$ROOT/preprocess/export_rows.py" --table "$TABLE" \
    --dictionary "$BIN_DIR/dict.$1.txt" --output "$EXPORTED"
}

# prepare_table SIDE [LANG]: TABLE of LANG's symbols (the target's), whose rows come from TABLE_SOURCE.
prepare_table() {
  local vectors='' source=$TABLE_SOURCE name lang=${2:-$TARGET_LANG}
  case $TABLE_SOURCE in
    fasttext)
      fasttext_names "$1"
      name="$FASTTEXT_NAME-d$TABLE_DIM-e$FASTTEXT_EPOCHS-s$PREP_SEED"
      vectors=$PREP_DIR/$name.bin
      if [ -n "$VECTORS" ]; then
        [ -f "$VECTORS" ] || die "VECTORS must be a file with vectors (.bin, .vec or .txt), but $VECTORS does not exist"
        vectors=$VECTORS name="vectors-$(checksum "$VECTORS")-d$TABLE_DIM-s$PREP_SEED"
        [ "${VECTORS%.bin}" != "$VECTORS" ] || source=vectors
      else
        mix_parallel
        stage "$PREP_DIR" "$name" "$name threads=$FASTTEXT_THREADS" train_fasttext "$vectors"
      fi
      ;;
    random | hypercube) name="$TABLE_SOURCE-d$TABLE_DIM-s$PREP_SEED" ;;
    *) die "TABLE_SOURCE must be fasttext, random or hypercube, but is $TABLE_SOURCE" ;;
  esac
  name=$(printf '%s' "$name$TABLE_OPTIONS" | tr -s -c 'A-Za-z0-9.\n-' '_')
  [ "$lang" = "$TARGET_LANG" ] || name+=-$lang
  TABLE=$PREP_DIR/table-$name.safetensors
  stage "$PREP_DIR" "table-$name" "$name dictionary=$(checksum "$BIN_DIR/dict.$lang.txt")" \
    build_table "$source" "$vectors" "$lang"
}

stage_data() {
  local folder=$DATA_DIR
  if [ -z "$folder" ]; then
    folder=$PREP_DIR/download
    download "$folder"
  fi
  if declare -F unpack_corpus >/dev/null; then
    unpack_corpus "$folder" # sets UNPACKED
    folder=$UNPACKED
  fi
  corpus | "$PYTHON" "$LIB/extract.py" --data-dir "$folder" --output "$RAW" \
    --source-lang "$SOURCE_LANG" --target-lang "$TARGET_LANG"
}

# Fetch what corpus() names from the data set's own site (or the mirror DATA_URL) into a folder.
download() {
  local folder=$1 archive member url file
  corpus | while read -r _ _ _ member archive url; do
    [ "$archive" != - ] || archive=${url##*/}
    file=$folder/$archive
    [ ! -f "$file" ] || continue
    [ -z "$DATA_URL" ] || url=$DATA_URL/$archive
    mkdir -p "$(dirname "$file")"
    say "downloading $url"
    curl --fail --location --retry 3 --output "$file.part" "$url" </dev/null ||
      die "$url could not be downloaded for $member; fetch it by hand and give its folder as DATA_DIR=FOLDER"
    mv -f "$file.part" "$file"
  done
}

stage_clean() {
  mkdir -p "$CLEAN"
  clean "$RAW/train" "$CLEAN/train" --min-length 1 --max-length "$MAX_LENGTH" --ratio "$MAX_RATIO"
  clean "$RAW/test" "$CLEAN/test"
  if [ -f "$RAW/valid.$SOURCE_LANG" ]; then
    clean "$RAW/valid" "$CLEAN/valid"
  else
    split_valid
  fi
}

# clean FROM TO [filter options]: tokenise and lower-case as the data set wants it. A run.sh may
# define filters normalize_text LANG (before) and finish_text LANG (after).
clean() {
  local from=$1 to=$2 options=(--workers "$WORKERS")
  shift 2
  if [ "$TOKENIZE" = 1 ]; then options+=(--tokenize); else options+=(--no-tokenize); fi
  [ "$LOWERCASE" = 0 ] || options+=(--lowercase)
  if declare -F normalize_text >/dev/null; then
    filter_text normalize_text "$from" "$to.normalized"
    from=$to.normalized
  fi
  "$PYTHON" "$ROOT/preprocess/clean_parallel.py" --source-lang "$SOURCE_LANG" \
    --target-lang "$TARGET_LANG" "${options[@]}" "$@" "$from" "$to"
  if declare -F finish_text >/dev/null; then
    filter_text finish_text "$to" "$to"
  fi
  rm -f "$to.normalized.$SOURCE_LANG" "$to.normalized.$TARGET_LANG"
}

filter_text() {
  local lang
  for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
    "$1" "$lang" <"$2.$lang" >"$3.$lang.tmp"
    mv -f "$3.$lang.tmp" "$3.$lang"
  done
}

# Take every VALID_EVERY-th pair of the training text for validation.
split_valid() {
  local lang
  for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
    awk -v n="$VALID_EVERY" 'NR % n == 0' "$CLEAN/train.$lang" >"$CLEAN/valid.$lang"
    awk -v n="$VALID_EVERY" 'NR % n != 0' "$CLEAN/train.$lang" >"$CLEAN/train.$lang.tmp"
  done
  for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
    mv -f "$CLEAN/train.$lang.tmp" "$CLEAN/train.$lang"
  done
}

stage_binarise() {
  if [ -n "$BPE_DROPOUT" ]; then
    binarise_segmentations
    return
  fi
  binarise_pairs "$BIN_DIR" --trainpref "$PIECES/train" --validpref "$PIECES/valid" \
    --testpref "$PIECES/test" ${PREPROCESS_OPTIONS[@]+"${PREPROCESS_OPTIONS[@]}"}
}

# binarise FOLDER OPTIONS…: fairseq-preprocess into a folder that appears when it is complete.
binarise() {
  local folder=$1
  shift
  rm -rf "$folder.tmp" "$folder"
  quietly "$FAIRSEQ-preprocess" --destdir "$folder.tmp" --workers "$WORKERS" "$@"
  mv "$folder.tmp" "$folder"
}

# The same for parallel text.
binarise_pairs() {
  binarise "$@" --source-lang "$SOURCE_LANG" --target-lang "$TARGET_LANG"
}

train_fasttext() {
  "$PYTHON" "$ROOT/preprocess/train_fasttext.py" --input "$FASTTEXT_INPUT" \
    --output "$1" --dim "$TABLE_DIM" --epoch "$FASTTEXT_EPOCHS" --seed "$PREP_SEED" \
    --threads "$FASTTEXT_THREADS"
}

# build_table SOURCE VECTORS LANG
build_table() {
  local options=(--source "$1")
  [ -z "$2" ] || options+=(--vectors "$2")
  # shellcheck disable=SC2206 # a list of options, split on blanks on purpose
  options+=($TABLE_OPTIONS)
  "$PYTHON" "$ROOT/preprocess/build_table.py" --dictionary "$BIN_DIR/dict.$3.txt" \
    --output "$TABLE" --dim "$TABLE_DIM" --seed "$PREP_SEED" \
    --report "${TABLE%.safetensors}.json" "${options[@]}"
}

# prepare_test_set PREFIX NAME: PREFIX.SRC and PREFIX.TGT, treated as the set's own test files.
prepare_test_set() {
  local folder=$OUT_DIR/test_sets/$2 from
  from=$(absolute "$(dirname "$1")")
  test_set_files() {
    echo "test $SOURCE_LANG plain $2.$SOURCE_LANG - -"
    echo "test $TARGET_LANG plain $2.$TARGET_LANG - -"
  }
  test_set_files "$@" | "$PYTHON" "$LIB/extract.py" --data-dir "$from" --output "$folder/raw" \
    --source-lang "$SOURCE_LANG" --target-lang "$TARGET_LANG" --splits test
  stage_again "$folder" binarise "text=$(checksum "$folder/raw/test.$SOURCE_LANG" "$folder/raw/test.$TARGET_LANG")" \
    binarise_test_set "$folder"
}

binarise_test_set() {
  local folder=$1 lang
  mkdir -p "$folder/clean" "$folder/pieces"
  clean "$folder/raw/test" "$folder/clean/test"
  for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
    segment "$folder/clean/test.$lang" "$folder/pieces/test.$lang"
  done
  binarise_pairs "$folder/bin" --testpref "$folder/pieces/test" \
    --srcdict "$BIN_DIR/dict.$SOURCE_LANG.txt" --tgtdict "$BIN_DIR/dict.$TARGET_LANG.txt"
}
