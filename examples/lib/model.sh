# shellcheck shell=bash
# Training, decoding and scoring, in OUT_DIR. Sourced by lib.sh.

# Turn RECIPE into CRITERION options and the kind of OUTPUT: a softmax, a frozen table from a file, or
# a table that is learned with the model. INITIAL says what begins with bilingual fastText rows: the
# learned table (and the input embeddings that it is not shared with), or the input embeddings.
# RECIPE_OPTIONS come after those of all recipes: BEST_LR is the learning rate that suits what begins so.
# TABLE_READERS says how embeddings read a table that they are tied to.
recipe_options() {
  local contrastive=(--criterion contrastive --label-smoothing "${LABEL_SMOOTHING:-0.1}")
  OUTPUT=frozen INITIAL= RECIPE_OPTIONS=() TABLE_READERS=()
  case $1 in
    softmax)
      OUTPUT=softmax
      CRITERION=(--criterion label_smoothed_cross_entropy --label-smoothing "${LABEL_SMOOTHING:-0.1}")
      ;;
    best) # what docs/ablations.md found with a learned table
      OUTPUT=learned INITIAL=table
      if tied_table; then
        TABLE_DIM=${EMBED_DIM:-$TABLE_DIM}
        [ "$FIX_NORM" = 0 ] || TABLE_READERS=(--fix-norm)
      fi
      center_fasttext
      CRITERION=("${contrastive[@]}") RECIPE_OPTIONS=(${BEST_LR:+--lr "$BEST_LR"})
      ;;
    pretrained) # a language model, which begins with the same rows, before it: pretrain.sh
      OUTPUT=learned INITIAL=language-model TABLE_DIM=${EMBED_DIM:-$TABLE_DIM}
      center_fasttext
      CRITERION=("${contrastive[@]}")
      ;;
    best-frozen) # and with a frozen one, whose rows are of the space that the inputs begin in
      INITIAL=inputs
      : "${TABLE_TEXT:=both}"
      CRITERION=("${contrastive[@]}" --sampling-estimator "${SAMPLING_ESTIMATOR:-importance}")
      RECIPE_OPTIONS=(${BEST_LR:+--lr "$BEST_LR"})
      ;;
    contrastive)
      OUTPUT=learned
      CRITERION=("${contrastive[@]}")
      ;;
    contrastive-frozen) CRITERION=("${contrastive[@]}") ;;
    hybrid)
      OUTPUT=learned
      CRITERION=(--criterion hybrid --label-smoothing "${LABEL_SMOOTHING:-0.1}")
      ;;
    cosine-learned) # collapses: to be run with a guard
      OUTPUT=learned
      CRITERION=(--criterion cosine)
      ;;
    cosine) CRITERION=(--criterion cosine) ;;
    l2) CRITERION=(--criterion l2) ;;
    vmf) CRITERION=(--criterion vmf --vmf-form paper) ;;
    vmf-authors) CRITERION=(--criterion vmf --vmf-form authors) ;;
    margin) CRITERION=(--criterion margin --negatives table) ;;
    margin-batch) CRITERION=(--criterion margin --negatives batch) ;;
    syn-margin) CRITERION=(--criterion syn_margin) ;;
    power-spherical) CRITERION=(--criterion power_spherical) ;;
    *) die "RECIPE must be one of softmax, best, best-frozen, pretrained, contrastive, hybrid, cosine-learned, contrastive-frozen, cosine, l2, vmf, vmf-authors, margin, margin-batch, syn-margin, power-spherical, but is $1" ;;
  esac
}

# Vectors of fastText share a direction, which looks like a collapse where a learned table begins.
center_fasttext() {
  [ "$TABLE_SOURCE" != fasttext ] || [ -n "$TABLE_OPTIONS" ] || TABLE_OPTIONS=--center
}

train() {
  local options architecture keep=(--no-epoch-checkpoints)
  [ "$CHECKPOINT" != average ] || keep=(--keep-last-epochs "$AVERAGE")
  # label smoothing and shared embeddings: the baseline as fairseq's own examples have it; a learned
  # table is shared with the embeddings that the baseline's softmax is shared with
  case $OUTPUT in
    softmax) architecture=(--arch "$SOFTMAX_ARCH" ${SOFTMAX_OPTIONS[@]+"${SOFTMAX_OPTIONS[@]}"}) ;;
    learned)
      architecture=(--arch "$CONTINUOUS_ARCH" --target-table learned)
      if [ "$TIED" = 1 ]; then
        architecture+=(${SOFTMAX_OPTIONS[@]+"${SOFTMAX_OPTIONS[@]}"} ${TABLE_READERS[@]+"${TABLE_READERS[@]}"})
      elif [[ "${SOFTMAX_OPTIONS[*]-}" == *--share-all-embeddings* ]]; then
        architecture+=(--decoder-input encoder) # these two still share theirs
      fi
      # tied, it has the dimension of the embeddings
      tied_table || architecture+=(--table-dim "$TABLE_DIM")
      [ -z "$TABLE" ] || architecture+=(--table-init "$TABLE")
      ;;
    frozen)
      architecture=(--arch "$CONTINUOUS_ARCH" --target-table "$TABLE"
        ${CONTINUOUS_OPTIONS[@]+"${CONTINUOUS_OPTIONS[@]}"})
      ;;
  esac
  [ -z "$ENCODER_VECTORS" ] || architecture+=(--encoder-embed-path "$ENCODER_VECTORS")
  [ -z "$DECODER_VECTORS" ] || architecture+=(--decoder-embed-path "$DECODER_VECTORS")
  if [ -n "$LANGUAGE_MODEL" ]; then
    # LayerNorm before each part is what fairseq's language models have
    architecture+=(--pretrained-encoder "$LANGUAGE_MODEL" --pretrained-decoder "$LANGUAGE_MODEL"
      --encoder-normalize-before --decoder-normalize-before)
  fi
  case " ${EXTRA[*]-} " in
    *" --lr "* | *" --lr="*) RECIPE_OPTIONS=() ;; # given: a training that began so goes on
  esac
  options=(--task translation --source-lang "$SOURCE_LANG" --target-lang "$TARGET_LANG"
    "${architecture[@]}" ${MODEL_OPTIONS[@]+"${MODEL_OPTIONS[@]}"}
    "${CRITERION[@]}" "${TRAIN_OPTIONS[@]}" ${RECIPE_OPTIONS[@]+"${RECIPE_OPTIONS[@]}"} "${keep[@]}")
  train_once "$BIN_DIR/dict.$SOURCE_LANG.txt" "$BIN_DIR/dict.$TARGET_LANG.txt"
}

# train_once DICTIONARY…: train with options, unless that is done.
train_once() {
  # --user-dir also for the softmax: the plugin lets torch >= 2.6 load fairseq's checkpoints
  options=(--user-dir "$ROOT/fairseq_contout" "${options[@]}"
    --seed "$SEED" --log-format simple --log-interval 50 ${EXTRA[@]+"${EXTRA[@]}"})
  # paths differ between machines and prove nothing: the contents count
  local inputs identity name
  inputs="${options[*]} data=$(checksum "$@")${BPE_DROPOUT:+ dropout=$BPE_DROPOUT segmentations=$SEGMENTATIONS}"
  for name in TABLE ENCODER_VECTORS DECODER_VECTORS LANGUAGE_MODEL BEGINNING; do
    [ -z "${!name}" ] || inputs="${inputs//${!name}/$name} $name=$(checksum "${!name}")"
  done
  inputs="${inputs//$ROOT\//}"
  # A training goes on with the options it began with, finished or not; only its end may move, and
  # how many of its checkpoints are kept.
  identity=$(sed -E 's/ --(max-epoch|max-update|keep-last-epochs)[ =][0-9]+| --no-epoch-checkpoints//g' <<<"$inputs")
  if [ -f "$OUT_DIR/.stamps/training" ] && [ "$(cat "$OUT_DIR/.stamps/training")" != "$identity" ]; then
    die "$OUT_DIR holds a training with other options or data: $(differences "$(cat "$OUT_DIR/.stamps/training")" "$identity"); give another OUT_DIR, or delete this one"
  fi
  put_stamp "$OUT_DIR/.stamps/training" "$identity"
  stage_again "$OUT_DIR" train "$inputs" run_training "$OUT_DIR" "$(training_data)" "${options[@]}"
}

# run_training FOLDER DATA OPTIONS…: checkpoints, log and statistics go to FOLDER.
run_training() {
  local folder=$1 data=$2
  shift 2
  mkdir -p "$folder/checkpoints"
  # not --log-file: fairseq opens that once more in every epoch, and then writes each line again
  PYTHONWARNINGS=ignore "$PYTHON" "$LIB/train.py" --stats "$folder/train_stats.json" \
    --save-dir "$folder/checkpoints" -- "$FAIRSEQ-train" "$data" \
    --save-dir "$folder/checkpoints" "$@" 2>&1 | tee -a "$folder/train.log" | readable >&2
}

# Set WEIGHTS, the checkpoint that is evaluated.
choose_weights() {
  WEIGHTS="$OUT_DIR/checkpoints/checkpoint_$CHECKPOINT.pt"
  [ "$CHECKPOINT" != average ] || average
  [ -f "$WEIGHTS" ] || die "$WEIGHTS does not exist although the training ended; train without options that save nothing"
}

# The mean of the weights after the last AVERAGE epochs.
average() {
  local files=()
  while IFS= read -r file; do
    files+=("$file")
  done < <(find "$OUT_DIR/checkpoints" -name 'checkpoint[0-9]*.pt' | sort -V | tail -n "$AVERAGE")
  [ ${#files[@]} -eq "$AVERAGE" ] ||
    die "CHECKPOINT=average needs the checkpoints of $AVERAGE epochs, but $OUT_DIR/checkpoints has ${#files[@]}; train longer with CHECKPOINT=average, or give a smaller AVERAGE"
  stage_again "$OUT_DIR" average "$(checksum "${files[@]}")" \
    "$PYTHON" "$LIB/average.py" --output "$WEIGHTS" "${files[@]}"
}

# decode NAME BIN_DIR BEAM LENPEN TEMPERATURE [SUBSET]: translations to OUT_DIR/decode/NAME.beamN.log
decode() {
  local name=$1 data=$2 beam=$3 lenpen=$4 temperature=$5 subset=${6:-test} options text
  # with its default multiple of 8, fairseq 0.12.3 silently leaves out the sentences that are over
  options=(--source-lang "$SOURCE_LANG" --target-lang "$TARGET_LANG" --gen-subset "$subset"
    --beam "$beam" --lenpen "$lenpen" --batch-size "${DECODE_BATCH:-64}" --required-batch-size-multiple 1)
  [ "$temperature" = 1 ] || options+=(--temperature "$temperature")
  case $SUBWORD_METHOD in
    bpe) options+=(--remove-bpe) ;;
    sentencepiece) options+=(--remove-bpe=sentencepiece) ;;
  esac
  # shellcheck disable=SC2206 # a list of options, split on blanks on purpose
  options+=($GENERATE_OPTIONS ${DECODE_OPTIONS[@]+"${DECODE_OPTIONS[@]}"})
  text=("$data/$subset".*.bin)
  [ -f "${text[0]}" ] || text=("$data/$subset".*) # --dataset-impl raw
  stage_again "$OUT_DIR" "decode-$name-beam$beam" \
    "${options[*]} model=$(checksum "$WEIGHTS") data=$(checksum "${text[@]}")" \
    run_decoding "$data" "$OUT_DIR/decode/$name.beam$beam.log" "${options[@]}"
}

run_decoding() {
  local data=$1 log=$2
  shift 2
  mkdir -p "$(dirname "$log")"
  # translations come on stdout; the log on stderr, or among them in older versions of fairseq
  {
    {
      PYTHONWARNINGS=ignore "$FAIRSEQ-generate" "$data" --user-dir "$ROOT/fairseq_contout" \
        --path "$WEIGHTS" --log-format simple --log-interval 5 "$@" 2>&1 1>&4 | readable >&2
    } 4>&1 | tee "$log.tmp" | { grep --line-buffered ' | INFO | ' || true; } | readable >&2
  }
  mv -f "$log.tmp" "$log"
}

# search_name LENPEN TEMPERATURE: what translations of the validation data are kept as.
search_name() {
  printf 'valid-lenpen%s' "$1"
  [ "$2" = 1 ] || printf -- '-temperature%s' "$2"
}

# Set BEST_LENPEN and BEST_TEMPERATURE: LENPEN and TEMPERATURE, or where one of them is several, the pair
# whose translations of the validation data have the highest BLEU over tokens.
tune_beam_search() {
  local lenpen temperature name best logs=()
  BEST_LENPEN=1 BEST_TEMPERATURE=1
  [ "$BEAM" -gt 1 ] || return 0 # one hypothesis: there is nothing to weigh
  BEST_LENPEN=$LENPEN BEST_TEMPERATURE=$TEMPERATURE
  [[ $LENPEN == *,* || $TEMPERATURE == *,* ]] || return 0
  for lenpen in ${LENPEN//,/ }; do
    for temperature in ${TEMPERATURE//,/ }; do
      name=$(search_name "$lenpen" "$temperature")
      decode "$name" "$BIN_DIR" "$BEAM" "$lenpen" "$temperature" valid
      logs+=("$lenpen,$temperature=$OUT_DIR/decode/$name.beam$BEAM.log")
    done
  done
  say "BLEU of the validation data for each length penalty and temperature:"
  best=$("$PYTHON" "$LIB/best_translations.py" --reference "$PREP_DIR/clean/valid.$TARGET_LANG" "${logs[@]}")
  BEST_LENPEN=${best%,*} BEST_TEMPERATURE=${best#*,}
  say "length penalty $BEST_LENPEN and temperature $BEST_TEMPERATURE are the best on the validation data"
}

# The command that gets the result again, for a shell.
recipe_command() {
  if [ "$SET" = demo ]; then # it reads both from the environment
    printf '%sRECIPE=%q OUT_DIR=OUT_DIR examples/demo/run.sh' "$GIVEN" "$RECIPE"
  else
    printf '%sexamples/%s/run.sh %q OUT_DIR' "$GIVEN" "$SET" "$RECIPE"
  fi
  [ ${#EXTRA[@]} -eq 0 ] || printf ' %q' "${EXTRA[@]}"
}

# result_options TITLE: set RESULT_OPTIONS, what is told of any model beside its scores.
result_options() {
  RESULT_OPTIONS=(--recipe "$RECIPE" --seed "$SEED" --test-set "$1" --command "$(recipe_command)"
    --train-log "$OUT_DIR/train.log" --train-stats "$OUT_DIR/train_stats.json")
  case $OUTPUT in
    learned) RESULT_OPTIONS+=(--table learned) ;;
    frozen) RESULT_OPTIONS+=(--table "$(basename "$TABLE" .safetensors)") ;;
  esac
  case $INITIAL in
    table) RESULT_OPTIONS+=(--begins-with "$(basename "$TABLE" .safetensors)") ;;
    inputs) RESULT_OPTIONS+=(--begins-with "$(basename "$ENCODER_VECTORS" .vec)") ;;
    language-model) RESULT_OPTIONS+=(--begins-with language-model) ;;
  esac
}

# score NAME REFERENCE TITLE FOLDER: one JSON line to OUT_DIR/decode/NAME.json
score() {
  local options=(--target-lang "$TARGET_LANG" --lenpen "$BEST_LENPEN" --temperature "$BEST_TEMPERATURE")
  [ "$INITIAL" != language-model ] || options+=(--pretrain-stats "$LM_DIR/train_stats.json")
  [ "$SCORE" = detokenized ] || options+=(--tokenized)
  [ -z "$SEARCH" ] || options+=(--search "$SEARCH")
  [ "$LOWERCASE" = 0 ] || options+=(--lowercase)
  options+=(--reference-tokens "$4/clean/test.$TARGET_LANG" --train-text "$PREP_DIR/clean/train.$TARGET_LANG")
  say "score $3"
  result_options "$3"
  "$PYTHON" "$LIB/score.py" --beam "$OUT_DIR/decode/$1.beam$BEAM.log" \
    --greedy "$OUT_DIR/decode/$1.beam1.log" --reference "$2" \
    --output "$OUT_DIR/decode/$1.json" "${RESULT_OPTIONS[@]}" "${options[@]}"
}

# Errors in TEST_SETS should not wait for the end of a training.
check_test_sets() {
  local prefix prefixes lang names=,
  IFS=, read -r -a prefixes <<<"$TEST_SETS"
  for prefix in ${prefixes[@]+"${prefixes[@]}"}; do
    for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
      [ -f "$prefix.$lang" ] || [ -f "$prefix.$lang.gz" ] || [ -f "$prefix.$lang.xz" ] ||
        die "TEST_SETS names $prefix, but there is no $prefix.$lang (or .gz, .xz)"
    done
    case $names in
      *",${prefix##*/},"*) die "TEST_SETS names two files ${prefix##*/}; rename one: their results would be mixed up" ;;
    esac
    names+="${prefix##*/},"
  done
}

# evaluate_one NAME BIN_DIR FOLDER TITLE: FOLDER holds the test set as published and as tokenised
evaluate_one() {
  decode "$1" "$2" "$BEAM" "$BEST_LENPEN" "$BEST_TEMPERATURE"
  decode "$1" "$2" 1 1 1
  score "$1" "$(reference "$3")" "$4" "$3"
}

evaluate() {
  local prefix prefixes name lines=()
  choose_weights
  search_options
  tune_beam_search
  IFS=, read -r -a prefixes <<<"$TEST_SETS"
  for prefix in ${prefixes[@]+"${prefixes[@]}"}; do
    name=${prefix##*/}
    prepare_test_set "$prefix" "$name"
    evaluate_one "extra-$name" "$OUT_DIR/test_sets/$name/bin" "$OUT_DIR/test_sets/$name" "$name"
    lines+=("$OUT_DIR/decode/extra-$name.json")
  done
  evaluate_one test "$BIN_DIR" "$PREP_DIR" "$TEST_NAME"
  lines+=("$OUT_DIR/decode/test.json") # the set's own test comes last
  cat -- "${lines[@]}" >"$OUT_DIR/results.jsonl.tmp"
  mv -f "$OUT_DIR/results.jsonl.tmp" "$OUT_DIR/results.jsonl"
}

# The file hypotheses are compared with: as published, or as tokenised where that is the custom.
reference() {
  if [ "$SCORE" = detokenized ]; then
    echo "$1/raw/test.$TARGET_LANG"
  else
    echo "$1/clean/test.$TARGET_LANG"
  fi
}
