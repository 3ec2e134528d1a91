#!/usr/bin/env bash
# Fetches the libraries of the dashboard anew, as they are on npm but for the names by which they import each other.
set -euo pipefail
cd "$(dirname "$0")/web/vendor"
there=$PWD; work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
for package in uplot@1.6.32 preact@11.2.0 htm@3.1.1; do
    npm pack --silent "$package" >/dev/null
    name=${package%@*}; mkdir "$name"; tar xzf "$name"-*.tgz -C "$name" --strip-components=1
done
{ cat uplot/dist/uPlot.iife.min.js; echo 'export default uPlot;'; } > "$there/uplot.js"
cp uplot/dist/uPlot.min.css "$there/uplot.css"
sed '/sourceMappingURL/d' preact/dist/preact.mjs > "$there/preact.js"
sed -e '/sourceMappingURL/d' -e 's#from *"preact"#from"./preact.js"#g' preact/hooks/dist/hooks.mjs > "$there/hooks.js"
cp htm/dist/htm.mjs "$there/htm.js"
cp uplot/LICENSE "$there/LICENSE.uplot"; cp preact/LICENSE "$there/LICENSE.preact"; cp htm/LICENSE "$there/LICENSE.htm"
