# What one machine has exported, another without the internet installs from: programs, weights, manifest.
# shellcheck shell=bash
run 0 bundle export "$work/site.bramble"
says "MIT OR Apache-2.0"
says "chat"
key=$(b bundle key)
says "--key $key"
run 3 bundle export "$work/site.bramble"
says "is there already"
# what the weights are made of is more than what is made
run 0 bundle export "$work/whole.bramble" --sources
[ "$(stat -c %s "$work/whole.bramble")" -gt "$(stat -c %s "$work/site.bramble")" ] || die "--sources took nothing along"
rm "$work/whole.bramble"
if command -v minisign >/dev/null; then # scripts/test installs it
    (cd "$work" && tar -xf site.bramble index.json index.json.minisig && minisign -Vm index.json -P "$key")
fi

# another machine: nothing of the first one's, and nobody to fetch from
mkdir "$work/site"
cd "$work/site"
export XDG_CACHE_HOME=$work/site/cache XDG_DATA_HOME=$work/site/data XDG_STATE_HOME=$work/site/state
export BRAMBLE_BUNDLES='' HF_ENDPOINT=http://127.0.0.1:9
run 1 bundle import "$work/site.bramble"
says "whose file is"
cp "$work/site.bramble" broken.bramble
printf x | dd of=broken.bramble bs=1 seek=2000 conv=notrunc status=none
run 1 bundle import broken.bramble --key "$key"
says "is not what was signed"
run 0 bundle import "$work/site.bramble" --key "$key"
says "fleet.yaml was written"
run 0 plan
run 0 apply --yes
says "Applied: 3 hosts."
ask shed
says Paris
run 0 bundle import "$work/site.bramble"
says "fleet.yaml is the same"
says "were here already"
run 0 apply --yes
says "Nothing to do"
run 0 remove --all --yes
