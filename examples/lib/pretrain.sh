# shellcheck shell=bash
# The recipe `pretrained`: one language model of both languages, trained on the training text and on
# MONO_TEXT, is what encoder and decoder begin with. Sourced by lib.sh.
# (Prajit Ramachandran, Peter J. Liu and Quoc V. Le, 2017, https://arxiv.org/abs/1611.02683, have one
# a language; with one dictionary and shared embeddings one model is enough.)

check_pretraining() {
  [ "$INITIAL" = language-model ] || return 0
  joined_dictionary && [[ "${SOFTMAX_OPTIONS[*]-}" == *--share-all-embeddings* ]] ||
    die "RECIPE pretrained needs one dictionary and one embedding for both languages, which $SET has not; take a small set (SIZE=small where there is one), not SUBWORD_METHOD=none"
  [ "$TIED" = 1 ] || die "TIED must be 1 with RECIPE pretrained, whose language model shares its embeddings with the table, but is $TIED; leave it out"
  [[ $PRETRAIN_UPDATES =~ ^[1-9][0-9]*$ ]] ||
    die "PRETRAIN_UPDATES must be a number of updates, 1 or more, but is $PRETRAIN_UPDATES"
  check_same_layers
  local lang
  for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
    mono_files "$lang"
  done
}

# mono_files LANG: set MONO_FILES, the files of MONO_TEXT in this language.
mono_files() {
  local prefix prefixes suffix found lang
  MONO_FILES=()
  IFS=, read -r -a prefixes <<<"$MONO_TEXT"
  for prefix in ${prefixes[@]+"${prefixes[@]}"}; do
    found=
    for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
      for suffix in '' .gz .xz; do
        [ -f "$prefix.$lang$suffix" ] || continue
        found=1
        [ "$lang" != "$1" ] || MONO_FILES+=("$prefix.$lang$suffix")
        break # the same text, packed
      done
    done
    [ -n "$found" ] || die "MONO_TEXT names $prefix, but there is no $prefix.$SOURCE_LANG or $prefix.$TARGET_LANG (or .gz, .xz)"
  done
}

# Set LANGUAGE_MODEL: a checkpoint in PREP_DIR, which several runs may share.
pretrain() {
  local lang files=() options inputs
  LANGUAGE_MODEL=
  [ "$INITIAL" = language-model ] || return 0
  lock_folder "$PREP_DIR" wait
  for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
    mono_files "$lang"
    files+=(${MONO_FILES[@]+"${MONO_FILES[@]}"})
  done
  stage "$PREP_DIR" monolingual "text=$(checksum /dev/null ${files[@]+"${files[@]}"}) length=$MAX_LENGTH" stage_monolingual
  # sentence by sentence, as a decoder reads them; sizes are those of the translation model
  options=(--user-dir "$ROOT/fairseq_contout" --task language_modeling --sample-break-mode eos
    --arch continuous_transformer_lm --target-table learned --share-decoder-input-output-embed
    --criterion contrastive --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0
    --lr 3e-3 --lr-scheduler polynomial_decay --warmup-updates $((PRETRAIN_UPDATES / 5))
    --total-num-update "$PRETRAIN_UPDATES" --max-update "$PRETRAIN_UPDATES" --max-tokens 4096
    --skip-invalid-size-inputs-valid-test --no-epoch-checkpoints --seed "$PREP_SEED"
    --log-format simple --log-interval 50)
  sizes_of decoder ${MODEL_OPTIONS[@]+"${MODEL_OPTIONS[@]}"} ${EXTRA[@]+"${EXTRA[@]}"}
  options+=(${SIZES[@]+"${SIZES[@]}"})
  inputs="${options[*]} data=$(checksum "$PREP_DIR/mono-bin/dict.txt" "$PREP_DIR"/mono-bin/*.bin) TABLE=$(checksum "$TABLE")"
  inputs=${inputs//$ROOT\//}
  # other options make another model, beside this one
  LM_DIR=$PREP_DIR/language-model-$(checksum - <<<"$inputs")
  LANGUAGE_MODEL=$LM_DIR/checkpoints/checkpoint_last.pt
  stage "$LM_DIR" language-model "$inputs" run_training "$LM_DIR" "$PREP_DIR/mono-bin" \
    "${options[@]}" --table-init "$TABLE"
  TABLE= # the language model's embeddings began with it
  unlock_folder "$PREP_DIR"
}

# sizes_of SIDE OPTIONS…: set SIZES, those that give an encoder or a decoder its size.
sizes_of() {
  local sizes="--$1-(layers|embed-dim|ffn-embed-dim|attention-heads)"
  SIZES=()
  shift
  while [ $# -gt 0 ]; do
    if [[ $1 =~ ^$sizes= ]]; then
      SIZES+=("$1")
    elif [[ $1 =~ ^$sizes$ ]] && [ $# -gt 1 ]; then
      SIZES+=("$1" "$2")
    fi
    shift
  done
}

# The language model has the decoder's sizes, and fairseq's defaults otherwise. What would make the
# translation model another one is refused here, not after the language model's training.
check_same_layers() {
  local option encoder decoder
  for option in ${MODEL_OPTIONS[@]+"${MODEL_OPTIONS[@]}"} ${EXTRA[@]+"${EXTRA[@]}"}; do
    case $option in
      --activation-fn* | --no-scale-embedding | --no-token-positional-embeddings | --layernorm-embedding | --encoder-learned-pos | --decoder-learned-pos)
        die "RECIPE pretrained must have layers as its language model has, which knows no ${option%%=*}; leave it out"
        ;;
    esac
  done
  sizes_of encoder ${MODEL_OPTIONS[@]+"${MODEL_OPTIONS[@]}"} ${EXTRA[@]+"${EXTRA[@]}"}
  encoder=$(last_of_each ${SIZES[@]+"${SIZES[@]}"})
  sizes_of decoder ${MODEL_OPTIONS[@]+"${MODEL_OPTIONS[@]}"} ${EXTRA[@]+"${EXTRA[@]}"}
  decoder=$(last_of_each ${SIZES[@]+"${SIZES[@]}"})
  [ "$encoder" = "$decoder" ] ||
    die "RECIPE pretrained begins encoder and decoder with one language model, so that their sizes must be the same, but they are ${encoder//$'\n'/, } and ${decoder//$'\n'/, }; give both"
}

# last_of_each SIZES…: a line NAME=VALUE for each; of an option that comes twice the last counts.
last_of_each() {
  printf '%s\n' "$@" | sed -E 's/^--(en|de)coder-//' | awk '
    /^[a-z-]+=/ { at = index($0, "="); last[substr($0, 1, at - 1)] = substr($0, at + 1); next }
    /^[a-z]/ { name = $0; next }
    { last[name] = $0 }
    END { for (name in last) print name "=" last[name] }' | sort
}

stage_monolingual() {
  local lang file options=(--tokenize --max-length "$MAX_LENGTH")
  [ "$LOWERCASE" = 0 ] || options+=(--lowercase)
  for lang in "$SOURCE_LANG" "$TARGET_LANG"; do
    mono_files "$lang"
    : >"$PIECES/mono.$lang"
    [ ${#MONO_FILES[@]} -gt 0 ] || continue
    if declare -F normalize_text >/dev/null; then
      for file in "${MONO_FILES[@]}"; do
        "$PYTHON" "$LIB/cat.py" "$file"
      done | normalize_text "$lang" >"$CLEAN/mono.normalized"
      MONO_FILES=("$CLEAN/mono.normalized")
    fi
    "$PYTHON" "$ROOT/preprocess/clean_monolingual.py" --language "$lang" "${options[@]}" \
      --output "$CLEAN/mono.$lang" "${MONO_FILES[@]}"
    rm -f "$CLEAN/mono.normalized"
    if declare -F finish_text >/dev/null; then
      finish_text "$lang" <"$CLEAN/mono.$lang" >"$CLEAN/mono.$lang.tmp"
      mv -f "$CLEAN/mono.$lang.tmp" "$CLEAN/mono.$lang"
    fi
    segment "$CLEAN/mono.$lang" "$PIECES/mono.$lang"
  done
  cat "$PIECES/train.$SOURCE_LANG" "$PIECES/mono.$SOURCE_LANG" \
    "$PIECES/train.$TARGET_LANG" "$PIECES/mono.$TARGET_LANG" >"$PIECES/mono.train"
  cat "$PIECES/valid.$SOURCE_LANG" "$PIECES/valid.$TARGET_LANG" >"$PIECES/mono.valid"
  binarise "$PREP_DIR/mono-bin" --only-source --trainpref "$PIECES/mono.train" \
    --validpref "$PIECES/mono.valid" --srcdict "$BIN_DIR/dict.$TARGET_LANG.txt"
}
