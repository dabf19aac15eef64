# shellcheck shell=bash
# What a recipe for a language model does otherwise than one for translation: sourced by its run.sh
# after lib.sh, whose stages it replaces. Text of one language, TARGET_LANG, is taken as it is.

SOURCE_LANG=$TARGET_LANG SUBWORD_METHOD=none TOKENIZE=0
# what prepare.sh asks of a translation
PREPROCESS_OPTIONS=() SOFTMAX_OPTIONS=(--share-decoder-input-output-embed)

usage() {
  cat <<USAGE
usage: [DATA_DIR=FOLDER] examples/$SET/run.sh RECIPE OUT_DIR [more fairseq-train options]

Trains a language model on $SET and prints one JSON object with its perplexities.

RECIPE      softmax or adaptive (fairseq's transformer_lm, with its adaptive softmax), or
            softmax-fasttext (a softmax that begins with fastText's rows); with a learned
            table, tied to the input, best (contrastive, beginning with the same rows),
            contrastive or hybrid; with a frozen one contrastive-frozen, cosine, l2, vmf or
            power-spherical
OUT_DIR     checkpoints, logs and results.jsonl; the same call again continues, and one with a
            larger --max-epoch or --max-update trains longer

environment (default):
  DATA_DIR      folder with the data set's files; downloaded from its own site when unset
  PREP_DIR      binarised text and table (OUT_DIR/prep); give several runs the same one
  SEED (1)      of the training;  PREP_SEED (1)  of fastText and table
  TABLE_SOURCE ($TABLE_SOURCE: fasttext, random or hypercube)  TABLE_DIM ($TABLE_DIM)
  TABLE_OPTIONS ($TABLE_OPTIONS)  further options of build_table.py
  VECTORS       fastText .bin, or .vec or .txt file to build the table from; unset: train fastText
  FASTTEXT_EPOCHS ($FASTTEXT_EPOCHS)  FASTTEXT_THREADS ($FASTTEXT_THREADS; more than 1 is faster, not repeatable)
  CHECKPOINT ($CHECKPOINT: best or last)  LABEL_SMOOTHING (0) of contrastive and hybrid
  ADAPTIVE_CUTOFF (4000,12000)  where the adaptive softmax cuts the dictionary
  SOFTMAX_BATCH ($SOFTMAX_BATCH)  tokens that fairseq-eval-lm scores at once
  PYTHON        interpreter that has fairseq ($PYTHON)
USAGE
}

# Turn RECIPE into CRITERION options and the kind of OUTPUT, as model.sh does.
recipe_options() {
  local contrastive=(--criterion contrastive --label-smoothing "${LABEL_SMOOTHING:-0}")
  OUTPUT=frozen INITIAL=
  case $1 in
    softmax) OUTPUT=softmax CRITERION=(--criterion cross_entropy) ;;
    softmax-fasttext) # what the rows that best begins with are worth to a softmax
      OUTPUT=softmax INITIAL=table TABLE_DIM=$EMBED_DIM CRITERION=(--criterion cross_entropy)
      ;;
    adaptive)
      OUTPUT=adaptive
      # fairseq asks for that backend also where there is one process
      CRITERION=(--criterion adaptive_loss --adaptive-softmax-cutoff "${ADAPTIVE_CUTOFF:-4000,12000}"
        --ddp-backend legacy_ddp)
      ;;
    best) # begins with fastText's rows
      OUTPUT=learned INITIAL=table TABLE_DIM=$EMBED_DIM
      CRITERION=("${contrastive[@]}")
      ;;
    contrastive) OUTPUT=learned CRITERION=("${contrastive[@]}") ;;
    hybrid)
      OUTPUT=learned
      CRITERION=(--criterion hybrid --label-smoothing "${LABEL_SMOOTHING:-0}")
      ;;
    contrastive-frozen) CRITERION=("${contrastive[@]}") ;;
    cosine) CRITERION=(--criterion cosine) ;;
    l2) CRITERION=(--criterion l2) ;;
    vmf) CRITERION=(--criterion vmf) ;;
    power-spherical) CRITERION=(--criterion power_spherical) ;;
    *) die "RECIPE must be one of softmax, softmax-fasttext, adaptive, best, contrastive, hybrid, contrastive-frozen, cosine, l2, vmf, power-spherical, but is $1" ;;
  esac
  [ "$TIED" = 1 ] || die "TIED must be 1 for a language model, but is $TIED; leave it out"
  [ -z "$FIX_NORM" ] || die "FIX_NORM is for translation models, but is $FIX_NORM; leave it out, or give --fix-norm at the end"
  [ "$CHECKPOINT" != average ] || die "CHECKPOINT must be best or last for a language model, but is average"
}

prepare() {
  lock_folder "$PREP_DIR" wait # a second run that shares it waits, and then finds it done
  PIECES=$PREP_DIR/text BIN_DIR=$PREP_DIR/bin RAW=$PREP_DIR/text
  find_data_dir
  stage "$PREP_DIR" data "${DATA_DIR:-download}" stage_data
  stage "$PREP_DIR" binarise "fairseq-preprocess --only-source" stage_binarise
  TABLE='' ENCODER_VECTORS='' DECODER_VECTORS='' BEGINNING=''
  if [ "$OUTPUT" = frozen ] || [ "$INITIAL" = table ]; then
    prepare_table target
  fi
  unlock_folder "$PREP_DIR"
}

stage_binarise() {
  binarise "$BIN_DIR" --only-source --trainpref "$PIECES/train.$TARGET_LANG" \
    --validpref "$PIECES/valid.$TARGET_LANG" --testpref "$PIECES/test.$TARGET_LANG"
  cp "$BIN_DIR/dict.txt" "$BIN_DIR/dict.$TARGET_LANG.txt" # where prepare.sh looks for it
}

train() {
  local options architecture=(--arch continuous_transformer_lm)
  case $OUTPUT in
    softmax) architecture=(--arch transformer_lm --share-decoder-input-output-embed) ;;
    adaptive) architecture=(--arch transformer_lm) ;;
    learned)
      architecture+=(--target-table learned --share-decoder-input-output-embed)
      [ -z "$TABLE" ] || architecture+=(--table-init "$TABLE")
      ;;
    frozen) architecture+=(--target-table "$TABLE") ;;
  esac
  options=(--task language_modeling "${architecture[@]}" "${MODEL_OPTIONS[@]}"
    "${CRITERION[@]}" "${TRAIN_OPTIONS[@]}" --no-epoch-checkpoints)
  if [ "$OUTPUT" = softmax ] && [ "$INITIAL" = table ]; then
    BEGINNING=$OUT_DIR/beginning.pt
    stage_again "$OUT_DIR" beginning "${options[*]//$TABLE/} ${EXTRA[*]-} SEED=$SEED TABLE=$(checksum "$TABLE")" \
      "$PYTHON" "$LIB/begin_softmax.py" --table "$TABLE" --output "$BEGINNING" -- \
      "$BIN_DIR" "${options[@]}" --user-dir "$ROOT/fairseq_contout" --seed "$SEED" \
      ${EXTRA[@]+"${EXTRA[@]}"}
    options+=(--finetune-from-model "$BEGINNING")
  fi
  train_once "$BIN_DIR/dict.txt"
}

# perplexity SUBSET: to OUT_DIR/SUBSET.log
perplexity() {
  stage_again "$OUT_DIR" "perplexity-$1" "model=$(checksum "$WEIGHTS") data=$(checksum "$BIN_DIR/$1.bin") softmax-batch=$SOFTMAX_BATCH" \
    run_perplexity "$1"
}

run_perplexity() {
  local -a blocks=() # as long as those of the training
  local number
  for ((number = 0; number < ${#EXTRA[@]}; number++)); do
    case ${EXTRA[number]} in
      --tokens-per-sample) blocks=(--tokens-per-sample "${EXTRA[number + 1]}") ;;
      --tokens-per-sample=*) blocks=("${EXTRA[number]}") ;;
    esac
  done
  PYTHONWARNINGS=ignore "$FAIRSEQ-eval-lm" "$BIN_DIR" --user-dir "$ROOT/fairseq_contout" \
    --path "$WEIGHTS" --gen-subset "$1" --softmax-batch "$SOFTMAX_BATCH" \
    "${EVAL_OPTIONS[@]}" ${blocks[@]+"${blocks[@]}"} >"$OUT_DIR/$1.log.tmp" 2>&1 || {
    readable <"$OUT_DIR/$1.log.tmp" >&2
    return 1
  }
  mv -f "$OUT_DIR/$1.log.tmp" "$OUT_DIR/$1.log"
}

evaluate() {
  local subset
  choose_weights
  for subset in valid test; do
    perplexity "$subset"
  done
  result_options "$TEST_NAME"
  "$PYTHON" "$LIB/score_lm.py" --text "$PIECES" --lang "$TARGET_LANG" --valid "$OUT_DIR/valid.log" \
    --test "$OUT_DIR/test.log" --output "$OUT_DIR/results.jsonl" "${RESULT_OPTIONS[@]}"
}
