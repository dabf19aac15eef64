# shellcheck shell=bash
# How the nearest words are found when a recipe decodes: SEARCH. Sourced by lib.sh.

# Errors in SEARCH should not wait for the end of a training.
check_search() {
  case $SEARCH in
    '' | exact | hnsw | ivf | ivfpq | shortlist) ;;
    *) die "SEARCH must be exact, hnsw, ivf, ivfpq or shortlist, but is $SEARCH; leave it out to score all words at each step" ;;
  esac
  [ -z "$SEARCH" ] || [ "$OUTPUT" != softmax ] ||
    die "SEARCH belongs to a continuous output, but RECIPE is softmax and SEARCH is $SEARCH; leave one out"
  [ -z "$SEARCH" ] || [[ " $GENERATE_OPTIONS" != *" --task"[\ =]* ]] ||
    die "GENERATE_OPTIONS must not have --task where SEARCH is given, but is $GENERATE_OPTIONS; leave one out"
}

# learn_lexicon DICTIONARY OUTPUT [OPTIONS…]: a lexicon of likely target words, of the training text.
learn_lexicon() {
  # shellcheck disable=SC2206 # a list of options, split on blanks on purpose
  local options=($LEXICON_OPTIONS "${@:3}")
  "$PYTHON" "$ROOT/preprocess/build_lexicon.py" --input "$PIECES/train.$SOURCE_LANG" "$PIECES/train.$TARGET_LANG" \
    --dictionary "$BIN_DIR/dict.$SOURCE_LANG.txt" "$1" \
    --held-out "$PIECES/valid.$SOURCE_LANG" "$PIECES/valid.$TARGET_LANG" --output "$2" ${options[@]+"${options[@]}"}
}

# Set DECODE_OPTIONS as SEARCH says, and make what it needs.
search_options() {
  [ -n "$SEARCH" ] || return 0
  local lexicon=$PREP_DIR/lexicon.safetensors
  DECODE_OPTIONS=(--task continuous_translation --knn "$KNN" --knn-search "$SEARCH")
  case $SEARCH in
    hnsw | ivf | ivfpq) DECODE_OPTIONS+=(--knn-cache "$OUT_DIR") ;;
    shortlist)
      lock_folder "$PREP_DIR" wait
      stage "$PREP_DIR" lexicon "format 2 $LEXICON_OPTIONS" learn_lexicon "$BIN_DIR/dict.$TARGET_LANG.txt" "$lexicon"
      unlock_folder "$PREP_DIR"
      DECODE_OPTIONS+=(--shortlist "$lexicon")
      ;;
  esac
}
