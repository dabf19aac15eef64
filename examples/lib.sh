# shellcheck shell=bash
# What every recipe shares. A run.sh sets the variables of its data set, defines corpus() and calls
#     recipe_main "$@"
# Stages: data, clean, subwords, binarise, fastText, table (in PREP_DIR), then train, decode, score
# (in OUT_DIR). A finished stage leaves a stamp with its inputs and is skipped the next time; a
# training that was interrupted continues. Progress goes to stderr, results alone to stdout.
set -euo pipefail

# What the caller asks for by variables belongs to the command that gets a result again.
GIVEN=
for name in SEED PREP_SEED SUBWORDS SUBWORD_METHOD BPE_DROPOUT SEGMENTATIONS TOKENIZE LOWERCASE MAX_LENGTH MAX_RATIO SCORE \
  TABLE_SOURCE TABLE_DIM TIED FIX_NORM TABLE_OPTIONS VECTORS FASTTEXT_EPOCHS FASTTEXT_THREADS LABEL_SMOOTHING SAMPLING_ESTIMATOR \
  VALID_EVERY MONO_TEXT PRETRAIN_UPDATES VOCABULARY WORDS MODEL SIZE BEAM CHECKPOINT AVERAGE LENPEN TEMPERATURE GENERATE_OPTIONS SOFTMAX_BATCH \
  ADAPTIVE_CUTOFF TABLE_TEXT TRAINED_WORDS SKIP_UNKNOWN LEXICON ALIGN_OPTIONS PAIRS \
  TUNE_UPDATES SCRATCH_UPDATES CHECK_EVERY FREEZE TUNE_OPTIONS SEARCH KNN LEXICON_OPTIONS DING SHORTCUT OPEN_SOURCE BONUS; do
  [ -z "${!name+set}" ] || GIVEN+="$name=$(printf %q "${!name}") "
done

EXAMPLES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$EXAMPLES")
LIB="$EXAMPLES/lib"
BEST_LR= # small.sh has one
: "${TIED:=1}" "${FIX_NORM:=}"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ ! -x "$ROOT/.venv/bin/python" ] || PYTHON=$ROOT/.venv/bin/python # as make sets it up
fi

# shellcheck source=lib/common.sh
. "$LIB/common.sh"
# shellcheck source=lib/subwords.sh
. "$LIB/subwords.sh"
# shellcheck source=lib/prepare.sh
. "$LIB/prepare.sh"
# shellcheck source=lib/pretrain.sh
. "$LIB/pretrain.sh"
# shellcheck source=lib/model.sh
. "$LIB/model.sh"
# shellcheck source=lib/search.sh
. "$LIB/search.sh"

usage() {
  cat <<USAGE
usage: [DATA_DIR=FOLDER] examples/$SET/run.sh RECIPE OUT_DIR [more fairseq-train options]

Trains $SOURCE_LANG → $TARGET_LANG on $SET, decodes its test set and prints one JSON object.

RECIPE      softmax (fairseq's own architecture and criterion); with a learned target table best
            (contrastive, beginning with fastText's rows), pretrained (beginning with a language
            model), contrastive, hybrid, cosine-learned (collapses); with a frozen one best-frozen
            (contrastive-frozen with a table of both languages' text, whose rows its input embeddings
            begin with), contrastive-frozen, cosine, l2, vmf, vmf-authors, margin, margin-batch,
            syn-margin or power-spherical
OUT_DIR     checkpoints, logs, translations and results.jsonl; the same call again continues, and one
            with a larger --max-epoch or --max-update trains longer

environment (default):
  DATA_DIR      folder with the data set's files; downloaded from its own site when unset
  PREP_DIR      prepared text, subwords, table (OUT_DIR/prep); give several runs the same one
  TEST_SETS     prefix,…: further files prefix.$SOURCE_LANG and prefix.$TARGET_LANG (also .gz, .xz)
                to decode with the same model; one JSON line each, before that of the set's own test
  SEED (1)      of the training;  PREP_SEED (1)  of subwords, fastText and table
  SUBWORDS ($SUBWORDS)  SUBWORD_METHOD ($SUBWORD_METHOD: bpe, sentencepiece or none)
  BPE_DROPOUT   probability with which a merge is left out, such as 0.1, in SEGMENTATIONS (8) segmentations of
                the training text, one an epoch in turn; each pass of FASTTEXT_EPOCHS reads them all; unset:
                one segmentation with all merges
  TABLE_SOURCE ($TABLE_SOURCE: fasttext, random or hypercube)  TABLE_DIM ($TABLE_DIM)
  TIED (1)      a learned table is the embeddings that softmax shares with its output, if it does;
                0: it is of its own, and of TABLE_DIM, as frozen ones are
  FIX_NORM (1)  of best: embeddings that are tied to the table are read as its rows, of norm 1
                (--fix-norm); 0: as they are
  TABLE_OPTIONS further options of build_table.py, such as "--mix-random 0.5" or "--center"
  TABLE_TEXT    what fastText reads for a frozen table: both languages, words interleaved (both, of best-frozen),
                or the target's (target, of the others)
  VECTORS       fastText .bin, or .vec or .txt file to build the table from; unset: train fastText
  FASTTEXT_EPOCHS ($FASTTEXT_EPOCHS)  FASTTEXT_THREADS ($FASTTEXT_THREADS; more than 1 is faster, not repeatable)
  MONO_TEXT     of pretrained: prefix,… of further raw text, prefix.$SOURCE_LANG or prefix.$TARGET_LANG or
                both (also .gz, .xz), not parallel  PRETRAIN_UPDATES ($PRETRAIN_UPDATES)
  BEAM ($BEAM)  GENERATE_OPTIONS  more fairseq-generate options
  SEARCH        of a continuous output: exact, hnsw, ivf, ivfpq, or shortlist (its lexicon is learned from the
                training text); unset: all words are scored at each step  KNN (32)  words that are found
  LEXICON_OPTIONS  of build_lexicon.py for SEARCH=shortlist, such as "--words 10 --frequent 500"
  LENPEN ($LENPEN)   length penalty of the beam search, or several (0.6,1,2): the one with the best BLEU
                on the validation data is taken
  TEMPERATURE ($TEMPERATURE)  of the beam search: logits are divided by it; or several (1,1.3,1.6), of which the best is
                taken in the same way, of all pairs with LENPEN
  CHECKPOINT ($CHECKPOINT: best, last, or average: the mean of the last epochs')  AVERAGE ($AVERAGE epochs)
  LABEL_SMOOTHING (0.1) of softmax, contrastive and hybrid
  SAMPLING_ESTIMATOR (importance) of best-frozen, or posterior
  SIZE, MODEL   where a set has several (the comment at the top of its run.sh)
  PYTHON        interpreter that has fairseq ($PYTHON)
USAGE
}

recipe_defaults() {
  : "${SEED:=1}" "${PREP_SEED:=1}" "${BEAM:=5}" "${CHECKPOINT:=best}" "${AVERAGE:=5}" "${LENPEN:=1}" "${TEMPERATURE:=1}"
  : "${SUBWORD_METHOD:=bpe}" "${SUBWORDS:=8000}" "${TOKENIZE:=1}" "${LOWERCASE:=0}"
  : "${BPE_DROPOUT:=}" "${SEGMENTATIONS:=}"
  : "${MAX_LENGTH:=175}" "${MAX_RATIO:=1.5}" "${VALID_EVERY:=0}" "${SCORE:=detokenized}"
  : "${TABLE_SOURCE:=fasttext}" "${TABLE_DIM:=300}" "${TABLE_OPTIONS:=}" "${VECTORS:=}"
  : "${TABLE_TEXT:=}"
  : "${FASTTEXT_EPOCHS:=5}" "${FASTTEXT_THREADS:=1}" "${TEST_SETS:=}" "${DATA_DIR:=}"
  : "${DATA_URL:=}" "${WORKERS:=2}" "${GENERATE_OPTIONS:=}"
  : "${MONO_TEXT:=}" "${PRETRAIN_UPDATES:=2000}" "${SEARCH:=}" "${KNN:=32}" "${LEXICON_OPTIONS:=}"
}

# Read RECIPE OUT_DIR and the rest; set OUT_DIR, PREP_DIR, EXTRA (an array) and absolute paths.
recipe_arguments() {
  local number option
  if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then
    usage
    exit 0
  fi
  [ $# -ge 2 ] || { usage >&2; die "RECIPE and OUT_DIR must be given, but $# argument(s) were"; }
  RECIPE=$1 OUT_DIR=$2
  shift 2
  EXTRA=("$@")
  while [ $# -gt 0 ]; do # vectors that embeddings begin with must have their dimension
    case $1 in
      --??coder-embed-dim=*) EMBED_DIM=${1#*=} ;;
      --??coder-embed-dim) EMBED_DIM=${2:-} ;;
    esac
    shift
  done
  [[ $TIED =~ ^[01]$ ]] || die "TIED must be 1 or 0, but is $TIED; leave it out for 1"
  [[ $FIX_NORM =~ ^[01]?$ ]] || die "FIX_NORM must be 1 or 0, but is $FIX_NORM; leave it out for the recipe's own"
  [[ ${TABLE_TEXT:-both} =~ ^(both|target)$ ]] || die "TABLE_TEXT must be both or target, but is $TABLE_TEXT; leave it out for the recipe's own"
  recipe_options "$RECIPE"
  [ -z "$FIX_NORM" ] || { [ "$RECIPE" = best ] && tied_table; } ||
    die "FIX_NORM is for RECIPE best and a table that is tied to embeddings, but RECIPE is $RECIPE and TIED is $TIED; leave it out, or give --fix-norm at the end"
  [ "$TIED" = 1 ] || { [ "$OUTPUT" = learned ] && [[ "${SOFTMAX_OPTIONS[*]-}" == *--share-* ]]; } ||
    die "TIED must be 1 where no learned table is shared with embeddings, as with RECIPE $RECIPE of $SET, but is $TIED; leave it out"
  mkdir -p "$OUT_DIR"
  OUT_DIR=$(absolute "$OUT_DIR")
  PREP_DIR=${PREP_DIR:-"$OUT_DIR/prep"}
  mkdir -p "$PREP_DIR"
  PREP_DIR=$(absolute "$PREP_DIR")
  [[ $PREP_DIR != *:* ]] || die "PREP_DIR must be a folder without a colon, at which fairseq splits its data, but is $PREP_DIR; give another"
  case $CHECKPOINT in
    best | last | average) ;;
    *) die "CHECKPOINT must be best, last or average, but is $CHECKPOINT" ;;
  esac
  [[ $AVERAGE =~ ^[1-9][0-9]*$ ]] || die "AVERAGE must be a number of epochs, 1 or more, but is $AVERAGE"
  number='([0-9]+(\.[0-9]*)?|\.[0-9]+)'
  [[ $LENPEN =~ ^$number(,$number)*$ ]] || die "LENPEN must be a number, or several with commas between them, but is $LENPEN"
  [[ $TEMPERATURE =~ ^$number(,$number)*$ ]] && ! [[ ,$TEMPERATURE, =~ ,[0.]+, ]] ||
    die "TEMPERATURE must be a number above 0, or several with commas between them, but is $TEMPERATURE"
  # given there, they would be others than those that the result is kept with
  for option in lenpen=LENPEN temperature=TEMPERATURE beam=BEAM gen-subset=TEST_SETS; do
    [[ " $GENERATE_OPTIONS" != *" --${option%=*}"[\ =]* ]] ||
      die "GENERATE_OPTIONS must not have --${option%=*}, but is $GENERATE_OPTIONS; give ${option#*=}"
  done
  case $SUBWORD_METHOD in
    bpe | sentencepiece | none) ;;
    *) die "SUBWORD_METHOD must be bpe, sentencepiece or none, but is $SUBWORD_METHOD" ;;
  esac
  check_dropout
}

# All the work; whatever programs print on the way goes to stderr.
recipe_run() {
  recipe_defaults
  recipe_arguments "$@"
  {
    check_tools
    check_test_sets
    check_pretraining
    check_search
    lock_folder "$OUT_DIR" fail
    prepare
    pretrain
    train
    evaluate
  } >&2
}

recipe_main() {
  recipe_run "$@"
  cat "$OUT_DIR/results.jsonl"
}
