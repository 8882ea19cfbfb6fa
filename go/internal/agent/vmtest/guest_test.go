package vmtest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"rekindle/internal/agent/container"
	"rekindle/internal/tunnel"
)

func spec(user string, argv ...string) map[string]any {
	return map[string]any{"argv": argv, "env": map[string]string{"PATH": "/app", "COLOUR": "green"}, "workdir": "/srv/made", "user": user,
		"capabilities": "default", "shm_mib": 64, "hostname": "localhost"}
}

func (m *machine) file(path string) string {
	m.t.Helper()
	text, ok := m.app("/file?path=" + url.QueryEscape(path)).(string)
	if !ok {
		m.t.Fatalf("%s cannot be read", path)
	}
	return text
}

func (m *machine) mustFail(path, reason string) {
	m.t.Helper()
	if got := failure(m.app(path)); !strings.Contains(got, reason) || got == "" {
		m.t.Errorf("%s: %q, not %q", path, got, reason)
	}
}

func (m *machine) mustWork(path string) any {
	m.t.Helper()
	answer := m.app(path)
	if text := failure(answer); text != "" {
		m.t.Errorf("%s: %s", path, text)
	}
	return answer
}

// TestLife takes one guest from its boot through a snapshot to two clones, in the order in which they happen.
func TestLife(t *testing.T) {
	b := newBench(t)
	began := time.Now()
	template := b.boot(t)
	relay := newRelay()
	template.open(relay)
	t.Logf("boot to both ports synced: %v", time.Since(began))
	for _, stage := range []struct {
		name string
		test func(*testing.T, *machine)
	}{
		{"before the application", beforeTheApplication}, {"the container", theContainer}, {"the way out", theWayOut},
		{"hooks", hooks}, {"output", output},
	} {
		t.Run(stage.name, func(t *testing.T) { on(t, template, stage.test) })
	}
	t.Run("freeze", func(t *testing.T) { on(t, template, func(t *testing.T, m *machine) { freeze(t, b, m, relay) }) })
	if t.Failed() {
		return
	}
	t.Run("clones", func(t *testing.T) { clones(t, b, relay) })
}

// on gives a machine to a stage: failures are the stage's.
func on(t *testing.T, m *machine, test func(*testing.T, *machine)) {
	t.Helper()
	owner := m.t
	m.t = t
	defer func() { m.t = owner }()
	test(t, m)
}

func beforeTheApplication(t *testing.T, m *machine) {
	status := m.call("GET", "/v1/status", nil, 200)
	if app := status["app"].(map[string]any); status["booted"] != true || app["state"] != "none" || app["exit_code"] != nil {
		t.Errorf("status %v", status)
	}
	if got := status["listening"]; !reflect.DeepEqual(got, []any{}) {
		t.Errorf("%v listens before the application does", got)
	}
	m.call("GET", "/v1/wait", nil, 409)
	m.call("POST", "/v1/start", "nonsense", 400)
	for reason, bad := range map[string]map[string]any{
		`exec: "none": executable file not found in $PATH`: spec("", "none"),
		"permission denied":                    spec("", "/app/notes"),
		"unable to find user ghost":            spec("ghost", "probe"),
		`workdir "x" must be an absolute path`: {"argv": []string{"probe"}, "workdir": "x"},
	} {
		answer := m.call("POST", "/v1/start", bad, 422)
		if text := answer["error"].(string); !strings.Contains(text, reason) {
			t.Errorf("%q instead of %q", text, reason)
		}
	}
}

func theContainer(t *testing.T, m *machine) {
	m.call("POST", "/v1/start", spec("", "probe", "a b"), 200)
	m.call("POST", "/v1/start", spec("", "probe"), 409)
	self := m.app("/self").(map[string]any)
	for name, want := range map[string]any{
		"pid": 1.0, "uid": 0.0, "gid": 0.0, "hostname": "localhost", "dir": "/srv/made", "args": []any{"probe", "a b"},
		"env": []any{"COLOUR=green", "HOME=/root", "PATH=/app"}, "nofile": []any{1024.0, 1024.0},
	} {
		if !reflect.DeepEqual(self[name], want) {
			t.Errorf("%s is %v, not %v", name, self[name], want)
		}
	}
	for _, line := range []string{"CapEff:\t00000000a80425fb", "CapPrm:\t00000000a80425fb", "CapBnd:\t00000000a80425fb",
		"CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(self["status"].(string), line+"\n") {
			t.Errorf("no %q in\n%s", line, self["status"])
		}
	}
	devices := m.app("/glob?path=/dev/*")
	want := []any{"/dev/fd", "/dev/full", "/dev/mqueue", "/dev/null", "/dev/ptmx", "/dev/pts", "/dev/random", "/dev/shm", "/dev/stderr",
		"/dev/stdin", "/dev/stdout", "/dev/sysgenid", "/dev/tty", "/dev/urandom", "/dev/zero"}
	if !reflect.DeepEqual(devices, want) {
		t.Errorf("devices %v", devices)
	}
	for path, want := range map[string]string{"/etc/hostname": "localhost\n", "/proc/self/oom_score_adj": "0\n", "/proc/kcore": "",
		"/proc/self/cgroup": "0::/system.slice/app\n"} {
		if got := m.file(path); got != want {
			t.Errorf("%s is %q", path, got)
		}
	}
	if resolv := m.file("/etc/resolv.conf"); !strings.HasPrefix(resolv, "nameserver 127.0.0.2\n") {
		t.Errorf("resolv.conf %q", resolv)
	}
	if mounts := m.file("/proc/self/mountinfo"); strings.Contains(mounts, "cgroup") || strings.Contains(mounts, "/rekindle/root") ||
		!strings.Contains(mounts, "size=65536k") {
		t.Errorf("mounts\n%s", mounts)
	}
	m.mustFail("/try?what=mount&path=/tmp", "operation not permitted")
	m.mustFail("/try?what=write&path=/sys/kernel/uevent_helper", "read-only file system")
	m.mustFail("/try?what=write&path=/proc/sys/kernel/hostname", "read-only file system")
	m.mustFail("/try?what=write&path=/proc/sysrq-trigger", "read-only file system")
	m.mustFail("/try?what=write&path=/proc/sys/kernel/random/boot_id", "read-only file system")
	m.mustFail("/try?what=write&path=/run/rekindle/generation", "read-only file system")
	m.mustWork("/try?what=write&path=/new-file")
	m.mustWork("/try?what=mknod&path=/dev/another-null")
	m.mustWork("/try?what=write&path=/dev/stdout")
	if processes := m.app("/glob?path=/proc/[0-9]*").([]any); len(processes) != 1 {
		t.Errorf("processes %v", processes)
	}
}

func theWayOut(t *testing.T, m *machine) {
	if text := m.mustWork("/fetch?url=http://198.51.100.7/"); text != "outside of 198.51.100.7" {
		t.Errorf("got %v", text)
	}
	if text := m.mustWork("/fetch?url=http://[2001:db8::7]/"); text != "outside of [2001:db8::7]" {
		t.Errorf("got %v", text)
	}
	if text := m.mustWork("/fetch?url=http://name.example/"); text != "outside of name.example" {
		t.Errorf("got %v", text)
	}
	m.mustFail("/fetch?url=http://10.1.2.3/", "connection reset by peer")
	m.mustFail("/udp?address=203.0.113.1:443", "operation not permitted")
	m.mustFail("/udp?address=[2001:db8::1]:443", "operation not permitted")
	for _, ask := range []string{"network=udp&server=127.0.0.2:53", "network=tcp&server=127.0.0.2:53", "network=udp&server=8.8.8.8:53",
		"network=tcp&server=8.8.8.8:53", "network=udp&server=[2001:db8::53]:53", "network=udp&server=169.254.169.253:53"} {
		if got := m.mustWork("/question?name=some.example&" + ask); !reflect.DeepEqual(got, []any{"203.0.113.9"}) {
			t.Errorf("%s: %v", ask, got)
		}
	}
	if got := m.mustWork("/lookup?name=big.example").([]any); len(got) != 100 {
		t.Errorf("%d of 100 addresses: a cut answer is not asked for again", len(got))
	}
	m.mustFail("/fetch?url=http://127.0.0.1:1017/", "connection reset by peer") // the trap's own port leads nowhere
	m.mustFail("/fetch?url=http://169.254.169.254/latest/meta-data/", "connection reset by peer")
	if text := m.local("PUT", "lease", `{"seconds":9}`); !strings.Contains(text, "not a microVM yet") {
		t.Errorf("a lease before the first thaw: %s", text)
	}
}

func hook(name, body string) map[string]any {
	return map[string]any{"name": name, "port": 8080, "timeout_ms": 5000, "body": body, "host": "localhost:8080"}
}

func hooks(t *testing.T, m *machine) {
	if got := m.call("GET", "/v1/status", nil, 200)["listening"]; !reflect.DeepEqual(got, []any{8080.0}) {
		t.Errorf("%v listens, not the probe's port alone", got)
	}
	if got := m.call("POST", "/v1/hook", hook("run", `{"a":1}`), 200); !reflect.DeepEqual(got, map[string]any{"status": 200.0}) {
		t.Errorf("got %v", got)
	}
	if got := m.call("POST", "/v1/hook", hook("validate", ""), 200); !reflect.DeepEqual(got, map[string]any{"status": 418.0}) {
		t.Errorf("got %v", got)
	}
	closed := hook("run", "")
	closed["port"] = 9
	if got := m.call("POST", "/v1/hook", closed, 200); !reflect.DeepEqual(got, map[string]any{"error": "refused"}) {
		t.Errorf("got %v", got)
	}
}

func (m *machine) logs(offset int) (string, http.Header) {
	m.t.Helper()
	request, _ := http.NewRequestWithContext(m.t.Context(), "GET", fmt.Sprintf("http://guest/v1/logs?offset=%d", offset), nil)
	response, err := m.in.RoundTrip(request)
	if err != nil {
		m.t.Fatal(err)
	}
	defer response.Body.Close()
	var text strings.Builder
	if _, err := io.Copy(&text, response.Body); err != nil {
		m.t.Fatal(err)
	}
	return text.String(), response.Header
}

func output(t *testing.T, m *machine) {
	all, header := m.logs(0)
	if !strings.HasPrefix(all, "probe started\n") || !strings.Contains(all, `hook run "{\"a\":1}"`) {
		t.Errorf("logs %q", all)
	}
	if header.Get("rekindle-log-start") != "0" || header.Get("rekindle-log-end") != fmt.Sprint(len(all)) {
		t.Errorf("headers %v for %d bytes", header, len(all))
	}
	if rest, _ := m.logs(6); rest != all[6:] {
		t.Errorf("from 6: %q", rest)
	}
}

// freeze takes a snapshot as a bake does, and shows what the host may rely on.
func freeze(t *testing.T, b *bench, m *machine, relay *relay) {
	m.mustWork("/talk")
	m.mustWork("/held?open=198.51.100.7:7")
	silent := <-relay.silent
	answer := m.call("POST", "/v1/freeze", map[string]any{"hook": hook("validate", ""), "trim": true}, 200)
	if answer["frozen"] != false {
		t.Fatalf("a guest whose hook fails answers %v", answer)
	}
	m.mustWork("/self")
	if got := m.file("/run/rekindle/generation"); !strings.HasPrefix(got, `{"generation":0,"first":false,`) {
		t.Errorf("generation before any thaw %q", got)
	}
	began := time.Now()
	answer = m.call("POST", "/v1/freeze", map[string]any{"hook": hook("suspend", ""), "trim": true}, 200)
	if answer["frozen"] != true || !reflect.DeepEqual(answer["hook"], map[string]any{"status": 200.0}) {
		t.Fatalf("answer %v", answer)
	}
	t.Logf("freeze with trim: %v", time.Since(began))
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("the connection to the outside is still there")
	}
	m.shut()
	freezeAgain(t, m, relay)
	b.save(m)
}

// freezeAgain is what a host does that has died behind a freeze: the application, which would not agree any more, is not asked.
func freezeAgain(t *testing.T, m *machine, relay *relay) {
	m.open(relay)
	m.mustBeShut()
	m.mustStandStill()
	before, _ := m.logs(0)
	answer := m.call("POST", "/v1/freeze", map[string]any{"hook": hook("validate", ""), "trim": false}, 200)
	if answer["frozen"] != true || !reflect.DeepEqual(answer["hook"], map[string]any{"status": 200.0}) {
		t.Fatalf("answer %v", answer)
	}
	m.shut()
	m.open(relay)
	if after, _ := m.logs(0); after != before {
		t.Errorf("the application went on: %q", after[len(before):])
	}
	m.call("POST", "/v1/freeze", map[string]any{"hook": nil, "trim": false}, 200)
	m.shut()
}

func identity(n int, entropy byte) map[string]any {
	seed := base64.StdEncoding.EncodeToString(slices.Repeat([]byte{entropy}, 64))
	return map[string]any{"entropy": seed, "now_ns": time.Now().UnixNano() + int64(n)*int64(time.Hour), "hostname": fmt.Sprintf("clone-%d", n),
		"machine_id": fmt.Sprintf("%032x", n), "hook": hook("run", fmt.Sprintf(`{"microvmId":"%d"}`, n))}
}

func (m *machine) thaw(n int, first bool) map[string]any {
	m.t.Helper()
	body := identity(n, byte(n))
	body["first"] = first
	about := url.QueryEscape(fmt.Sprintf(`{"microvm_id":"clone-%d","revision":%d,"lease_max_seconds":60}`, n, n))
	return m.call("POST", "/v1/thaw?about="+about, body, 200)
}

func clones(t *testing.T, b *bench, relay *relay) {
	randoms := map[string]bool{}
	for n := 1; n <= 3; n++ {
		m := b.clone(t, fmt.Sprintf("clone-%d", n))
		in, out := m.dial("in"), m.dial("out")
		b.load(m)
		began := time.Now()
		m.openOn(in, out, relay)
		synced := time.Since(began)
		if n == 1 {
			m.call("POST", "/v1/hook", hook("run", ""), 409)
			m.mustBeShut()
			m.mustStandStill()
		}
		answer := m.thaw(n, true)
		t.Logf("cont to both synced %v, to thaw and hook acknowledged %v", synced, time.Since(began))
		step := time.Duration(int64(answer["clock_step_ns"].(float64)))
		if answer["seeded"] != true || !reflect.DeepEqual(answer["hook"], map[string]any{"status": 200.0}) || step < time.Duration(n)*time.Hour-time.Minute {
			t.Errorf("thaw %v", answer)
		}
		isConfirmed(t, answer, n)
		isItself(t, m, n)
		wishes(t, m, n)
		m.mustGoOn()
		randoms[m.app("/random").(string)] = true
		m.kill()
	}
	if len(randoms) != 3 {
		t.Errorf("clones share random bytes: %v", randoms)
	}
}

// local is what the guest's own API answers to the application.
func (m *machine) local(method, path, body string) string {
	m.t.Helper()
	query := url.Values{"method": {method}, "url": {"http://169.254.169.254/rekindle/v1/" + path}, "body": {body}}
	return fmt.Sprint(m.mustWork("/fetch?" + query.Encode()))
}

// wishes shows that what the application says reaches the host, at once when the host waits for it.
func wishes(t *testing.T, m *machine, n int) {
	if text := m.local("GET", "", ""); !strings.Contains(text, fmt.Sprintf(`"microvm_id":"clone-%d","revision":%d,`, n, n)) {
		t.Errorf("facts %s", text)
	}
	m.local("PUT", "lease", `{"seconds":60,"name":"train"}`)
	lease, ok := m.call("GET", "/v1/wishes", nil, 200)["lease"].(map[string]any)
	if !ok || lease["name"] != "train" || lease["left_ms"].(float64) > 60_000 || lease["left_ms"].(float64) < 1 {
		t.Errorf("lease %v", lease)
	}
	m.local("POST", "suspend", "")
	if news := m.call("GET", "/v1/wait?news=0", nil, 200); news["suspend"] != true || news["news"] != 1.0 {
		t.Errorf("news %v", news)
	}
	m.call("GET", "/v1/wait?news=x", nil, 400)
}

// mustBeShut shows that nobody reaches the application.
func (m *machine) mustBeShut() {
	m.t.Helper()
	_, err := tunnel.Dial(m.t.Context(), m.in, "127.0.0.1:8080")
	var refused *tunnel.Refused
	if !errors.As(err, &refused) || refused.Reason != tunnel.ReasonDenied {
		m.t.Errorf("a tunnel before the thaw: %v", err)
	}
}

// mustStandStill shows that the application, which talks all the time, does not run.
func (m *machine) mustStandStill() {
	m.t.Helper()
	before, _ := m.logs(0)
	for range 50 {
		m.call("GET", "/v1/status", nil, 200)
	}
	if after, _ := m.logs(0); len(after) != len(before) {
		m.t.Errorf("the application said %d bytes before its thaw", len(after)-len(before))
	}
}

func (m *machine) mustGoOn() {
	m.t.Helper()
	before, _ := m.logs(0)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if after, _ := m.logs(0); len(after) > len(before) {
			return
		}
	}
	m.t.Error("the application does not go on after its thaw")
}

// isConfirmed: a thaw's answer says what is there now.
func isConfirmed(t *testing.T, answer map[string]any, n int) {
	t.Helper()
	want := container.NewIdentity(fmt.Sprintf("clone-%d", n), fmt.Sprintf("%032x", n))
	for name, value := range map[string]any{"hostname": want.Hostname, "machine_id": want.MachineID, "boot_id": want.BootID,
		"generation": 1.0, "cut": true, "held": true} {
		if answer[name] != value {
			t.Errorf("%s is confirmed as %v, not %v", name, answer[name], value)
		}
	}
	ahead := time.Until(time.Unix(0, int64(answer["clock_ns"].(float64)))) - time.Duration(n)*time.Hour
	if ahead.Abs() > 2*time.Second {
		t.Errorf("the confirmed clock is off by %v", ahead)
	}
}

func isItself(t *testing.T, m *machine, n int) {
	t.Helper()
	name := fmt.Sprintf("clone-%d", n)
	if got := m.app("/self").(map[string]any)["hostname"]; got != name {
		t.Errorf("host name %v", got)
	}
	for path, want := range map[string]string{"/etc/hostname": name + "\n", "/etc/machine-id": fmt.Sprintf("%032x\n", n), "/new-file": "x",
		"/proc/sys/kernel/random/boot_id": container.NewIdentity(name, fmt.Sprintf("%032x", n)).BootID + "\n"} {
		if got := m.file(path); got != want {
			t.Errorf("%s is %q", path, got)
		}
	}
	if got := m.file("/dev/sysgenid"); !strings.HasPrefix(got, "\x01\x00\x00\x00") {
		t.Errorf("counter %q", got[:4])
	}
	if got := m.file("/run/rekindle/generation"); !strings.HasPrefix(got, `{"generation":1,"first":true,`) {
		t.Errorf("generation %q", got)
	}
	if !strings.Contains(m.file("/etc/hosts"), name) {
		t.Error("/etc/hosts does not know the name")
	}
	clock := time.Unix(0, int64(m.app("/clock").(float64)))
	if ahead := time.Until(clock) - time.Duration(n)*time.Hour; ahead.Abs() > 2*time.Second {
		t.Errorf("the clock is off by %v", ahead)
	}
	m.mustFail("/held?", "connection reset by peer")
	if text := m.mustWork("/fetch?url=http://198.51.100.7/"); text != "outside of 198.51.100.7" {
		t.Errorf("got %v", text)
	}
}

// TestFreezes: what becomes of a guest that goes on behind a freeze, one that was asked for again or one that failed.
func TestFreezes(t *testing.T) {
	b := newBench(t)
	m, relay := b.boot(t), newRelay()
	m.open(relay)
	m.call("POST", "/v1/start", spec("", "probe"), 200)
	m.mustWork("/talk")
	m.thaw(1, true)
	m.local("PUT", "lease", `{"seconds":60,"name":"train"}`)

	m.mustFreeze(hook("suspend", ""))
	freezeAgain(t, m, relay)
	m.open(relay)
	m.mustBeShut()
	if answer := m.thaw(2, false); answer["held"] != true {
		t.Errorf("the application ran before its thaw: %v", answer)
	}
	m.mustServe()
	m.mustBeHooked(1, 0)

	m.mustNotFreeze()
	m.mustBeHooked(1, 1)

	m.mustFreeze(nil) // nobody was asked, so the next one asks
	m.open(relay)
	m.mustNotFreeze()
	m.mustBeHooked(1, 2)

	m.mustFreeze(nil)
	m.open(relay)
	m.mustFreeze(hook("suspend", ""))
	m.open(relay)
	m.mustBeShut()
	m.mustStandStill()
	m.mustBeHooked(2, 2)
}

// mustFreeze ends both sessions, as a freeze does.
func (m *machine) mustFreeze(asked any) {
	m.t.Helper()
	if answer := m.call("POST", "/v1/freeze", map[string]any{"hook": asked, "trim": false}, 200); answer["frozen"] != true {
		m.t.Fatalf("answer %v", answer)
	}
	m.shut()
}

// mustNotFreeze asks an application that does not agree, and shows that its guest is none the worse for it.
func (m *machine) mustNotFreeze() {
	m.t.Helper()
	answer := m.call("POST", "/v1/freeze", map[string]any{"hook": hook("validate", ""), "trim": false}, 200)
	if answer["frozen"] != false || !reflect.DeepEqual(answer["hook"], map[string]any{"status": 418.0}) {
		m.t.Errorf("answer %v", answer)
	}
	m.mustServe()
}

// mustServe shows that the application runs, is reached, reaches the outside, and has a lease whose time goes on.
func (m *machine) mustServe() {
	m.t.Helper()
	m.mustGoOn()
	m.mustWork("/self")
	if text := m.mustWork("/fetch?url=http://198.51.100.7/"); text != "outside of 198.51.100.7" {
		m.t.Errorf("got %v", text)
	}
	if lease := m.call("GET", "/v1/wishes", nil, 200)["lease"]; lease == nil {
		m.t.Error("the lease stands still")
	}
}

// mustBeHooked counts what the application was asked for: to suspend, which it does, and to validate, which it does not.
func (m *machine) mustBeHooked(suspends, validates int) {
	m.t.Helper()
	all, _ := m.logs(0)
	if got := strings.Count(all, "hook suspend "); got != suspends {
		m.t.Errorf("the application was asked %d times to suspend, not %d times", got, suspends)
	}
	if got := strings.Count(all, "hook validate "); got != validates {
		m.t.Errorf("the application was asked %d times to validate, not %d times", got, validates)
	}
}

// TestEnds: what becomes of applications that end, in one guest each.
func TestEnds(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		name, trigger string
		argv          []string
		want          map[string]any
	}{
		{"by itself", "", []string{"probe", "exit"}, map[string]any{"exit_code": 7.0, "signal": nil, "oom_kills": 0.0}},
		{"for want of memory", "/eat", []string{"probe"}, map[string]any{"exit_code": 137.0, "signal": 9.0, "oom_kills": 1.0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := b.boot(t)
			m.open(nil)
			m.call("POST", "/v1/start", spec("app", c.argv...), 200)
			if c.trigger != "" {
				go m.trigger(c.trigger)
			}
			if got := m.call("GET", "/v1/wait", nil, 200); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v", got)
			}
			if app := m.call("GET", "/v1/status", nil, 200)["app"].(map[string]any); app["state"] != "exited" {
				t.Errorf("status %v", app)
			}
			m.call("POST", "/v1/poweroff", nil, 202)
			if err := m.process.Wait(); err != nil {
				t.Errorf("the machine ended with %v", err)
			}
		})
	}
}

func (m *machine) trigger(path string) {
	conn, err := m.dialApp(context.Background())
	if err != nil {
		return // the test that waits for the effect fails
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path)
}

// TestPrivileged is a guest whose application has all capabilities, and one whose user is not root.
func TestPrivileges(t *testing.T) {
	b := newBench(t)
	t.Run("all", func(t *testing.T) {
		m := b.boot(t)
		m.open(nil)
		all := spec("", "probe")
		all["capabilities"] = "all"
		m.call("POST", "/v1/start", all, 200)
		if status := m.app("/self").(map[string]any)["status"].(string); !strings.Contains(status, "CapEff:\t000001ffffffffff\n") {
			t.Errorf("status %s", status)
		}
		m.mustWork("/try?what=mount&path=/tmp")
		m.mustWork("/try?what=open&path=/dev/fuse")
		m.mustWork("/try?what=nest")
		if got := m.file("/proc/sys/kernel/random/boot_id"); got == m.file("/run/rekindle/proc/sys/kernel/random/boot_id") {
			t.Errorf("the boot id is the kernel's: %s", got)
		}
		m.mustWork("/file?path=/sys/fs/cgroup/cgroup.procs")
	})
	t.Run("another user", func(t *testing.T) {
		m := b.boot(t)
		m.open(nil)
		m.call("POST", "/v1/start", spec("app", "probe"), 200)
		self := m.app("/self").(map[string]any)
		if self["uid"] != 1000.0 || self["gid"] != 1001.0 || !reflect.DeepEqual(self["groups"], []any{50.0}) {
			t.Errorf("self %v", self)
		}
		if status := self["status"].(string); !strings.Contains(status, "CapEff:\t0000000000000000\n") ||
			!strings.Contains(status, "CapBnd:\t00000000a80425fb\n") {
			t.Errorf("status %s", status)
		}
		if !slices.Contains(self["env"].([]any), any("HOME=/app")) {
			t.Errorf("environment %v", self["env"])
		}
		m.mustFail("/try?what=write&path=/etc/x", "permission denied")
		m.mustWork("/try?what=write&path=/dev/stdout")
	})
}

// TestABrokenMachineSaysWhyAndStops: nothing hangs when a boot fails.
func TestABrokenMachineSaysWhyAndStops(t *testing.T) {
	b := newBench(t)
	copyOf := *b
	run(t, copyOf.command(t.Context(), "usr/bin/qemu-img", "create", "-q", "-f", "raw", b.dir+"/disk.raw", "16M"))
	m := copyOf.boot(t)
	if err := m.process.Wait(); err != nil {
		t.Errorf("the machine ended with %v", err)
	}
	if text := m.console.String(); !strings.Contains(text, "rekindle-agent: boot failed: mount disks: mount /dev/vd") {
		t.Errorf("console %q", text)
	}
}
