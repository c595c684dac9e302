#!/usr/bin/env bash
# Checks the language of comments, texts and documents: words that CONTRIBUTING.md rules out, and
# comments wider than 100 columns. `make check` calls this.
#
#   test/setup/language.sh [PATH…]     without a path: those of PATHS
#
# Names with an underscore, like those of tests, are not checked. A line that must contain such a
# word (the name of a user, an option of a program) is listed in EXCEPTIONS.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The files and folders that are checked.
PATHS=(README.md ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs crates shims test fuzz charts examples Makefile .ci)
# Generated, or about these words.
SKIPPED='^(test/setup/language\.sh|docs/performance\.json|.*\.lock)$'

WORDS=(
    '(who|what)ever' '(no|some|any|every)body' 'told' 'tells?' 'telling' 'anew' 'begun' 'mend(s|ed|ing)?'
    'there (is|are|was) none' '(is|are|was|were) no' 'takes? hold' 'go(es)? on' 'of (its|their|his|our) own'
    'what (is|are|was|were|has|have|had|it|they|one|remains|comes|goes|needs?|takes?|makes?|belongs?)'
    'look(s|ed|ing)? (at|into|whether|like)' 'have to do with' 'ha(s|ve) to say'
)
# Lines with these words in another sense.
EXCEPTIONS=(
    '\bnobody:x:' '65534'
)

pattern=$(IFS='|'; echo "${WORDS[*]}")
exceptions=$(IFS='|'; echo "${EXCEPTIONS[*]}")
[ $# -gt 0 ] || set -- "${PATHS[@]}"
mapfile -t files < <(git ls-files -- "$@" | grep -E '\.(rs|md|sh|toml|yaml|py|go|c|wit)$|(^|/)(Makefile|Dockerfile|run)$' \
    | grep -vE "$SKIPPED")
[ ${#files[@]} -gt 0 ] || { echo "language.sh: no file of the repository matches: $*" >&2; exit 1; }

# shellcheck disable=SC2016
perl -CSD -ne '
    BEGIN { ($words, $except) = (shift @ARGV, shift @ARGV); $words = qr/\b(?:$words)\b/i; $except = qr/$except/ }
    chomp;
    my $comment = $ARGV =~ /\.(md|toml|yaml)$/ ? qr/(?!)/ : $ARGV =~ /\.(rs|go|c|wit)$/ ? qr{^\s*//} : qr/^\s*#/;
    if (!/$except/ && /($words)/) { print "$ARGV:$.: avoid \"$1\": $_\n"; $bad++ }
    if (length > 100 && /$comment/) { printf "%s:%d: a comment of %d columns, over 100\n", $ARGV, $., length; $bad++ }
    close ARGV if eof;
    END { if ($bad) { print STDERR "language.sh: $bad lines to rewrite; CONTRIBUTING.md has the rules\n"; $? = 1 } }
' "$pattern" "$exceptions" "${files[@]}"
