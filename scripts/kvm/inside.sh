# Run by nested-init: Python's surroundings as the checkout's `.venv` has them outside, then the parts that were asked for.
port=/dev/vport0p1
[ -e "$port" ] || port=/dev/console
exec >"$port" 2>&1 </dev/null
cd /checkout || exit 1
mkdir -p .venv/bin .venv/lib/python3
python=$(readlink -f /usr/bin/python3)
ln -s "$python" .venv/bin/python
ln -s python .venv/bin/python3
printf 'home = /usr/bin\ninclude-system-site-packages = false\n' >.venv/pyvenv.cfg
mkdir -p ".venv/lib/$(basename "$python")"
ln -s /library/site ".venv/lib/$(basename "$python")/site-packages"
echo /checkout >/library/site/checkout.pth
printf '#!/checkout/.venv/bin/python\nfrom rekindle.cli import main\nmain()\n' >.venv/bin/rekindle
chmod +x .venv/bin/rekindle
export REKINDLE_TOOLS_DIR=/library/tools
.venv/bin/python -m scripts.kvm.inside
status=$?
tar --create --file=/dev/vdd --directory=/results .
sync
echo "nested: end $status"
