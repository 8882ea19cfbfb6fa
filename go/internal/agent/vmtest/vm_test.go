// Package vmtest runs the agent as process 1 of real virtual machines and plays the relay.
//
// It needs a toolbox tree: REKINDLE_TEST_TOOLS names it (and REKINDLE_TEST_KERNEL its kernel folder, when that is elsewhere).
package vmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "rekindle/internal/agent" // so that a change of it counts as one of these tests
	"rekindle/internal/channel"
	"rekindle/internal/tunnel"
)

// bootTimeout is for a busy machine in software emulation.
const bootTimeout = 60 * time.Second

// modules is the order for the guest kernel of the toolbox.
var modules = []string{"virtio_mmio.ko", "virtio_blk.ko", "libcrc32c.ko", "netfs.ko", "erofs.ko", "overlay.ko", "dummy.ko numdummies=0",
	"nfnetlink.ko", "nf_defrag_ipv4.ko", "nf_defrag_ipv6.ko", "nf_conntrack.ko", "nf_nat.ko", "nf_tables.ko", "nft_chain_nat.ko", "nft_redir.ko",
	"nft_ct.ko", "nf_reject_ipv4.ko", "nf_reject_ipv6.ko", "nft_reject.ko", "nft_reject_inet.ko"}

// bench is what machines are made from.
type bench struct {
	dir, tree, kernel string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	tree := os.Getenv("REKINDLE_TEST_TOOLS")
	if tree == "" {
		t.Skip("REKINDLE_TEST_TOOLS names no toolbox tree")
	}
	kernel := os.Getenv("REKINDLE_TEST_KERNEL")
	if kernel == "" {
		kernel = filepath.Join(tree, "rekindle")
	}
	b := &bench{t.TempDir(), tree, kernel}
	b.makeInitramfs(t)
	b.makeRoot(t)
	b.makeDisk(t)
	return b
}

// command runs a program of the tree with the tree's libraries.
func (b *bench) command(ctx context.Context, program string, arguments ...string) *exec.Cmd {
	libraries := filepath.Join(b.tree, "usr/lib/x86_64-linux-gnu")
	loader := []string{"--library-path", libraries, filepath.Join(b.tree, program)}
	command := exec.CommandContext(ctx, filepath.Join(b.tree, "lib64/ld-linux-x86-64.so.2"), append(loader, arguments...)...)
	command.Env = append(os.Environ(), "QEMU_MODULE_DIR="+filepath.Join(libraries, "qemu"))
	return command
}

func run(t *testing.T, command *exec.Cmd) {
	t.Helper()
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command.Args, err, output)
	}
}

func build(t *testing.T, into, what string) {
	t.Helper()
	command := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=test", "-o", into, what)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	run(t, command)
}

// makeInitramfs writes a newc archive: the agent and the modules.
func (b *bench) makeInitramfs(t *testing.T) {
	t.Helper()
	agent := filepath.Join(b.dir, "agent")
	build(t, agent, "rekindle/cmd/agent")
	var archive bytes.Buffer
	add := func(name string, mode uint32, content []byte) {
		fmt.Fprintf(&archive, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			archive.Len(), mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
		pad(&archive)
		archive.Write(content)
		pad(&archive)
	}
	addFile := func(name, path string, mode uint32) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		add(name, mode, content)
	}
	addFile("init", agent, 0o100755)
	add("lib", 0o040755, nil)
	add("lib/modules", 0o040755, nil)
	add("lib/modules/order", 0o100644, []byte(strings.Join(modules, "\n")+"\n"))
	for _, line := range modules {
		name, _, _ := strings.Cut(line, " ")
		addFile("lib/modules/"+name, filepath.Join(b.kernel, "modules", name), 0o100644)
	}
	add("TRAILER!!!", 0, nil)
	for archive.Len()%4096 != 512 { // or QEMU may load it over its tables
		archive.WriteByte(0)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "initrd"), archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func pad(archive *bytes.Buffer) {
	for archive.Len()%4 != 0 {
		archive.WriteByte(0)
	}
}

func (b *bench) makeRoot(t *testing.T) {
	t.Helper()
	root := filepath.Join(b.dir, "root")
	for _, dir := range []string{"etc", "app", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build(t, filepath.Join(root, "app/probe"), "rekindle/internal/agent/vmtest/probe")
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/app:/bin/sh\n",
		"etc/group":  "root:x:0:\nteam:x:50:app\napp:x:1001:\n",
		"app/notes":  "no program",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/run/elsewhere/resolv.conf", filepath.Join(root, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	run(t, b.command(t.Context(), "usr/bin/mkfs.erofs", filepath.Join(b.dir, "root.erofs"), root))
}

func (b *bench) makeDisk(t *testing.T) {
	t.Helper()
	path := filepath.Join(b.dir, "disk.raw")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<30); err != nil {
		t.Fatal(err)
	}
	run(t, b.command(t.Context(), "usr/sbin/mkfs.ext4", "-q", "-F", path))
}

// machine is one running VMM with the relay's side of both channels.
type machine struct {
	t       *testing.T
	dir     string
	process *exec.Cmd
	console *bytes.Buffer
	qmp     *qmp
	in      *channel.Client
	out     net.Conn // the session that the guest calls on
}

// kind says how a machine comes to life.
type kind struct {
	name string
	args []string // QEMU's, beside those of every machine
	ram  string   // options of its memory
}

func (b *bench) boot(t *testing.T) *machine {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(b.dir, "ram")); err != nil {
		t.Fatal(err)
	}
	return b.launch(t, kind{"template", []string{
		"-kernel", filepath.Join(b.kernel, "vmlinux"), "-initrd", filepath.Join(b.dir, "initrd"),
		"-append", "console=ttyS0 reboot=t panic=-1 quiet tsc=reliable tsc_early_khz=" + tscKHz(t) +
			" no_timer_check mitigations=off 8250.nr_uarts=1 cryptomgr.notests random.trust_cpu=on audit=0 apparmor=0 lsm= rekindle.debug",
	}, "share=on"})
}

func (b *bench) clone(t *testing.T, name string) *machine {
	t.Helper()
	return b.launch(t, kind{name, []string{"-incoming", "defer", "-S", "-global", "migration.send-configuration=off", "-snapshot"},
		"share=off,readonly=on,rom=off"})
}

func tscKHz(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "bogomips\t: ")
	var bogomips float64
	if _, err := fmt.Sscan(rest, &bogomips); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(int(bogomips * 500))
}

func (b *bench) launch(t *testing.T, kind kind) *machine {
	t.Helper()
	dir, err := os.MkdirTemp(b.dir, kind.name)
	if err != nil {
		t.Fatal(err)
	}
	socket := func(id string) string {
		return fmt.Sprintf("socket,id=%s,path=%s,server=on,wait=off", id, filepath.Join(dir, id))
	}
	arguments := append([]string{
		"-L", filepath.Join(b.tree, "usr/share/qemu"), "-L", filepath.Join(b.tree, "usr/share/seabios"),
		"-M", "microvm,accel=tcg,pit=off,pic=off,rtc=on,isa-serial=on,memory-backend=mem0", "-cpu", "max", "-m", "256", "-smp", "1",
		"-object", "memory-backend-file,id=mem0,size=256M,mem-path=" + filepath.Join(b.dir, "ram") + "," + kind.ram,
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-chardev", socket("qmp"), "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-device,max_ports=3",
		"-chardev", socket("in"), "-device", "virtserialport,chardev=in,name=rekindle.in,nr=1",
		"-chardev", socket("out"), "-device", "virtserialport,chardev=out,name=rekindle.out,nr=2",
		"-drive", "if=none,id=root,format=raw,readonly=on,file=" + filepath.Join(b.dir, "root.erofs"),
		"-device", "virtio-blk-device,drive=root,serial=root",
		"-drive", "if=none,id=disk,format=raw,file=" + filepath.Join(b.dir, "disk.raw"),
		"-device", "virtio-blk-device,drive=disk,serial=disk",
	}, kind.args...)
	m := &machine{t: t, dir: dir, console: &bytes.Buffer{}}
	m.process = b.command(context.Background(), "usr/bin/qemu-system-x86_64", arguments...)
	m.process.Stdout, m.process.Stderr = m.console, m.console
	if err := m.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.kill)
	m.qmp = dialQMP(t, m.dial("qmp"))
	return m
}

func (m *machine) kill() {
	m.process.Process.Kill() // it may have ended by itself
	m.process.Wait()
	if m.t.Failed() {
		m.t.Logf("console of %s:\n%s", filepath.Base(m.dir), m.console)
	}
}

// dial connects to a socket of the VMM, which makes it some time after its start.
func (m *machine) dial(name string) net.Conn {
	m.t.Helper()
	deadline := time.Now().Add(bootTimeout)
	for {
		conn, err := net.Dial("unix", filepath.Join(m.dir, name))
		if err == nil {
			return conn
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("no %s: %v\n%s", name, err, m.console)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// greet dials a port and waits for its guest.
func (m *machine) greet(name string) net.Conn {
	m.t.Helper()
	conn := m.dial(name)
	m.sync(conn)
	return conn
}

func (m *machine) sync(conn net.Conn) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), bootTimeout)
	defer cancel()
	if err := channel.Greet(ctx, conn); err != nil {
		m.t.Fatalf("%v\n%s", err, m.console)
	}
}

// open takes up both channels; relay answers what comes out of the guest.
func (m *machine) open(relay http.Handler) {
	m.t.Helper()
	m.openOn(m.dial("in"), m.dial("out"), relay)
}

func (m *machine) openOn(in, out net.Conn, relay http.Handler) {
	m.t.Helper()
	m.sync(in)
	m.sync(out)
	go channel.Serve(out, relay)
	client, err := channel.NewClient(m.t.Context(), in)
	if err != nil {
		m.t.Fatal(err)
	}
	m.in, m.out = client, out
	m.t.Cleanup(func() { client.Close(); out.Close() })
}

// shut ends both sessions from the host's side.
func (m *machine) shut() {
	m.in.Close()
	m.out.Close()
}

// call makes a request to the agent and decodes its answer.
func (m *machine) call(method, path string, body any, wantStatus int) map[string]any {
	m.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), bootTimeout)
	defer cancel()
	request, _ := http.NewRequestWithContext(ctx, method, "http://guest"+path, bytes.NewReader(text))
	response, err := m.in.RoundTrip(request)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", path, err, m.console)
	}
	defer response.Body.Close()
	answer := map[string]any{}
	data, err := io.ReadAll(response.Body)
	if err != nil {
		m.t.Fatalf("%s: %v", path, err)
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		m.t.Fatalf("%s: %s %q", path, response.Status, data)
	}
	if response.StatusCode != wantStatus {
		m.t.Fatalf("%s: %s %s", path, response.Status, data)
	}
	return answer
}

// app asks the probe, through a tunnel.
func (m *machine) app(path string) any {
	m.t.Helper()
	client := http.Client{Timeout: bootTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return m.dialApp(ctx)
		},
	}}
	response, err := client.Get("http://app" + path)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", path, err, m.console)
	}
	defer response.Body.Close()
	var answer any
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		m.t.Fatalf("%s: %v", path, err)
	}
	return answer
}

// dialApp connects to the probe; one that has just been executed does not listen yet.
func (m *machine) dialApp(ctx context.Context) (net.Conn, error) {
	deadline := time.Now().Add(bootTimeout)
	for {
		conn, err := tunnel.Dial(ctx, m.in, "127.0.0.1:8080")
		var refused *tunnel.Refused
		if !errors.As(err, &refused) || refused.Reason != tunnel.ReasonRefused || time.Now().After(deadline) {
			return conn, err
		}
	}
}

// failure is the error that the probe met.
func failure(answer any) string {
	if fields, ok := answer.(map[string]any); ok {
		if text, ok := fields["error"].(string); ok {
			return text
		}
	}
	return ""
}

// qmp speaks to the VMM.
type qmp struct {
	t    *testing.T
	conn net.Conn
	in   *json.Decoder
}

func dialQMP(t *testing.T, conn net.Conn) *qmp {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	q := &qmp{t, conn, json.NewDecoder(conn)}
	q.next(func(message map[string]any) bool { return message["QMP"] != nil })
	q.do("qmp_capabilities", map[string]any{})
	return q
}

func (q *qmp) do(command string, arguments map[string]any) {
	q.t.Helper()
	if err := json.NewEncoder(q.conn).Encode(map[string]any{"execute": command, "arguments": arguments}); err != nil {
		q.t.Fatal(err)
	}
	q.next(func(message map[string]any) bool {
		if message["error"] != nil {
			q.t.Fatalf("%s: %v", command, message["error"])
		}
		_, answered := message["return"]
		return answered
	})
}

func (q *qmp) next(wanted func(map[string]any) bool) {
	q.t.Helper()
	q.conn.SetReadDeadline(time.Now().Add(bootTimeout))
	for {
		message := map[string]any{}
		if err := q.in.Decode(&message); err != nil {
			q.t.Fatalf("qmp: %v", err)
		}
		if wanted(message) {
			return
		}
	}
}

// save stops a machine and keeps its state; its memory is in its file already.
func (b *bench) save(m *machine) {
	m.t.Helper()
	m.qmp.do("stop", map[string]any{})
	m.qmp.do("xen-save-devices-state", map[string]any{"filename": filepath.Join(b.dir, "state")})
	m.process.Process.Kill()
	m.process.Wait()
}

// load restores what save kept and lets it run.
func (b *bench) load(m *machine) {
	m.t.Helper()
	m.qmp.do("migrate-set-capabilities", map[string]any{"capabilities": []any{map[string]any{"capability": "events", "state": true}}})
	m.qmp.do("migrate-incoming", map[string]any{"uri": "file:" + filepath.Join(b.dir, "state")})
	m.qmp.next(func(message map[string]any) bool {
		data, _ := message["data"].(map[string]any)
		return message["event"] == "MIGRATION" && data["status"] == "completed"
	})
	m.qmp.do("cont", map[string]any{})
}
