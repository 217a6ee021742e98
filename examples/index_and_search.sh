#!/bin/sh
# Index a folder and search it, offline, in a temporary place:  sh examples/index_and_search.sh
set -eu

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

mkdir notes
cat > notes/bread.md <<'TEXT'
# Sourdough
Feed the starter with flour and water the evening before. In the morning it should have doubled.

# Baking
Heat the oven to 250 degrees and put a bowl of water into it: steam makes the crust thin.
TEXT
cat > notes/bicycle.html <<'TEXT'
<h1>A flat tyre</h1>
<p>Take the wheel off, find the hole under water, and glue a patch on it.</p>
<p>Before you put the tyre back, feel along its inside for the thorn.</p>
TEXT

# The index goes to .taskvec/index here; --store names any other place.
taskvec index notes --chunk-chars 120
taskvec search "how do I repair a puncture?" -k 2
taskvec search "a crisp crust" -k 1 --json

# Change a file, delete another: only what changed is encoded again.
echo "Brush the loaf with cold water when it is done." >> notes/bread.md
rm notes/bicycle.html
taskvec index notes --chunk-chars 120
taskvec search "what to do after baking" -k 1
