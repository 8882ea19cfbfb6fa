package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const patience = 20 * time.Second

// TestMain lets this test binary be the relay, so that tests have a process to start and kill.
func TestMain(m *testing.M) {
	if os.Getenv("RELAY_TEST_PROCESS") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type process struct {
	*exec.Cmd
	output io.Reader
	errors *strings.Builder
}

func start(t *testing.T, socket string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], "--socket", socket), errors: &strings.Builder{}}
	p.Env = append(os.Environ(), "RELAY_TEST_PROCESS=1")
	p.Stderr = p.errors
	output, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.output = output
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	return p
}

// health asks a relay that has said that it listens; a relay that has not started says nothing.
func (p *process) health(t *testing.T, socket string) map[string]any {
	t.Helper()
	if said, err := io.ReadAll(p.output); string(said) != "listening\n" {
		t.Fatalf("it said %q, %v", said, err)
	}
	folder, err := os.Open(filepath.Dir(socket))
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	name := fmt.Sprintf("/proc/self/fd/%d/relay.sock", folder.Fd())
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", name)
	}}}
	defer client.CloseIdleConnections()
	response, err := client.Get("http://relay/v1/health")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func socketPath(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), strings.Repeat("long", 40), "relay.sock")
}

func TestALife(t *testing.T) {
	socket := socketPath(t)
	first := start(t, socket)
	if answer := first.health(t, socket); answer["pid"] != float64(first.Process.Pid) || answer["configured"] != false {
		t.Errorf("%v", answer)
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if info, err = os.Stat(filepath.Dir(socket)); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info.Mode(), err)
	}
	second := start(t, socket)
	if err := second.Wait(); err == nil || !strings.Contains(second.errors.String(), "another relay serves this socket") {
		t.Errorf("a second relay: %v\n%s", err, second.errors)
	}
	if err := first.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, first.errors)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestANewRelayAfterSIGKILL(t *testing.T) {
	socket := socketPath(t)
	first := start(t, socket)
	first.health(t, socket)
	first.Process.Kill()
	first.Wait()
	second := start(t, socket)
	if answer := second.health(t, socket); answer["pid"] != float64(second.Process.Pid) {
		t.Errorf("%v", answer)
	}
}

func TestAFolderForOthersIsRefused(t *testing.T) {
	folder := t.TempDir()
	if err := os.Chmod(folder, 0o750); err != nil {
		t.Fatal(err)
	}
	p := start(t, filepath.Join(folder, "relay.sock"))
	if err := p.Wait(); err == nil || !strings.Contains(p.errors.String(), "0700") {
		t.Errorf("%v\n%s", err, p.errors)
	}
}

// Another user's process must not steer the relay, even when it can reach the socket.
func TestAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	socket := filepath.Join(t.TempDir(), "run", "relay.sock")
	p := start(t, socket)
	p.health(t, socket)
	for path := filepath.Dir(socket); path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	ask := func(uid uint32) string {
		script := "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'GET /v1/health HTTP/1.0\\r\\n\\r\\n'); print(len(s.recv(9)))"
		command := exec.Command("python3", "-c", script, socket)
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		said, _ := command.CombinedOutput()
		return string(said)
	}
	if said := ask(0); said != "9\n" {
		t.Errorf("our own user: %q", said)
	}
	if said := ask(12345); said == "9\n" {
		t.Errorf("another user was answered")
	}
}
