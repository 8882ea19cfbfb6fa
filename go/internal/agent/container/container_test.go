package container

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const passwdText = `root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:An App:/srv/app:/bin/sh
nohome:x:1002:1002::
broken line
short:x:7
`

const groupText = `root:x:0:
staff:x:50:app,other
app:x:1001:
audio:x:29:other,app
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestResolveUser(t *testing.T) {
	passwd, group := write(t, passwdText), write(t, groupText)
	for text, want := range map[string]account{
		"":           {home: "/root"},
		"root":       {home: "/root"},
		"0:0":        {home: "/root"},
		"app":        {uid: 1000, gid: 1001, groups: []int{50, 29}, home: "/srv/app"},
		"1000":       {uid: 1000, gid: 1001, groups: []int{50, 29}, home: "/srv/app"},
		"app:staff":  {uid: 1000, gid: 50, home: "/srv/app"},
		"app:":       {uid: 1000, gid: 1001, groups: []int{50, 29}, home: "/srv/app"},
		"1000:77":    {uid: 1000, gid: 77, home: "/srv/app"},
		"4711":       {uid: 4711, home: "/"},
		"4711:audio": {uid: 4711, gid: 29, home: "/"},
		"nohome":     {uid: 1002, gid: 1002, home: "/"},
	} {
		got, err := resolveUser(text, passwd, group)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"nobody", "app:nogroup", "-1", "99999999999"} {
		if got, err := resolveUser(text, passwd, group); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestAnImageWithoutUserFiles(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	got, err := resolveUser("", none, none)
	if err != nil || !reflect.DeepEqual(got, account{home: "/root"}) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestFindProgram(t *testing.T) {
	dir := t.TempDir()
	good, plain := filepath.Join(dir, "good"), filepath.Join(dir, "plain")
	for path, mode := range map[string]os.FileMode{good: 0o755, plain: 0o644} {
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"good":       "",
		good:         "",
		"plain":      `exec: "plain": executable file not found in $PATH`,
		"none":       `exec: "none": executable file not found in $PATH`,
		plain:        `permission denied`,
		dir:          `is a directory`,
		dir + "/abc": `no such file or directory`,
	} {
		program, err := findProgram(name, "/nonexistent::"+dir)
		if want == "" && (err != nil || program != good) {
			t.Errorf("%s: %s, %v", name, program, err)
		}
		if want != "" && (err == nil || !strings.HasSuffix(err.Error(), want)) {
			t.Errorf("%s: %s, %v", name, program, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	spec := Spec{Env: map[string]string{"B": "2", "A": "x=y"}}
	if got := spec.environment("/home/me"); !slices.Equal(got, []string{"A=x=y", "B=2", "HOME=/home/me", "PATH=" + defaultPath}) {
		t.Errorf("got %q", got)
	}
	spec = Spec{Env: map[string]string{"HOME": "/h", "PATH": "/p"}}
	if got := spec.environment("/root"); !slices.Equal(got, []string{"HOME=/h", "PATH=/p"}) {
		t.Errorf("got %q", got)
	}
}

func TestCapabilityBits(t *testing.T) {
	if got := DefaultCapabilities.bits(40); got != 0x00000000a80425fb {
		t.Errorf("default %x", got)
	}
	if got := AllCapabilities.bits(40); got != 0x000001ffffffffff {
		t.Errorf("all %x", got)
	}
}

func TestCheck(t *testing.T) {
	good := Spec{Argv: []string{"x"}}
	if err := good.check(); err != nil || good.Workdir != "/" || good.ShmMiB != 64 || good.Capabilities != DefaultCapabilities {
		t.Errorf("%v, %+v", err, good)
	}
	for name, spec := range map[string]Spec{
		"argv":         {},
		"workdir":      {Argv: []string{"x"}, Workdir: "srv"},
		"capabilities": {Argv: []string{"x"}, Capabilities: "some"},
		"shm_mib":      {Argv: []string{"x"}, ShmMiB: -1},
	} {
		if err := spec.check(); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFilesAreRewrittenInPlace(t *testing.T) {
	dir := t.TempDir()
	if err := WriteFiles(dir, NewIdentity("localhost", "0123456789abcdef0123456789abcdef")); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(filepath.Join(dir, HostnameFile))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	want := NewIdentity("clone", "1123456789abcdef0123456789abcdef")
	if err := WriteFiles(dir, want); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 32)
	n, _ := open.Read(text)
	if string(text[:n]) != "clone\n" {
		t.Errorf("an open file reads %q", text[:n])
	}
	if got, err := ReadFiles(dir); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	resolv, err := os.ReadFile(filepath.Join(dir, ResolvFile))
	if err != nil || !strings.HasPrefix(string(resolv), "nameserver 127.0.0.2\n") {
		t.Errorf("resolv.conf %q, %v", resolv, err)
	}
}

func TestABootIDIsOneMachines(t *testing.T) {
	one, same, other := NewIdentity("a", strings.Repeat("0", 32)), NewIdentity("b", strings.Repeat("0", 32)), NewIdentity("a", strings.Repeat("1", 32))
	if one.BootID != same.BootID || one.BootID == other.BootID {
		t.Errorf("%s, %s, %s", one.BootID, same.BootID, other.BootID)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(one.BootID) {
		t.Errorf("%s is no UUID of version 4", one.BootID)
	}
}

func TestAGenerationIsReplacedAsAWhole(t *testing.T) {
	dir := t.TempDir()
	if err := Publish(dir); err != nil {
		t.Fatal(err)
	}
	counter, err := os.Open(filepath.Join(dir, NewsDir, counterFile))
	if err != nil {
		t.Fatal(err)
	}
	defer counter.Close()
	mapped, err := syscall.Mmap(int(counter.Fd()), 0, 4, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(filepath.Join(dir, NewsDir, "generation"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	next := Generation{}.Next(true, time.UnixMilli(5000), 3*time.Second).Next(false, time.UnixMilli(9000), time.Second)
	if err := next.Tell(dir); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 200)
	n, _ := old.Read(text)
	if !strings.HasPrefix(string(text[:n]), `{"generation":0,`) {
		t.Errorf("a reader of the old one sees %q", text[:n])
	}
	if got := binary.NativeEndian.Uint32(mapped); got != 2 {
		t.Errorf("who has mapped the counter sees %d", got)
	}
	now, err := os.ReadFile(filepath.Join(dir, NewsDir, "generation"))
	want := `{"generation":2,"first":false,"thawed_at_ms":9000,"gap_ms":1000,"total_gap_ms":4000}` + "\n"
	if err != nil || string(now) != want {
		t.Errorf("%q, %v", now, err)
	}
}
