package keep

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func serve(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	keeper, done := New(), make(chan struct{})
	go func() { keeper.Serve(listener); close(done) }()
	t.Cleanup(func() {
		listener.Close()
		<-done
		keeper.Close()
	})
	return path
}

func ask(t *testing.T, path, line string, fds ...int) (answer, []int) {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, _, err := conn.WriteMsgUnix([]byte(line+"\n"), syscall.UnixRights(fds...), nil); err != nil {
		t.Fatal(err)
	}
	data, control := make([]byte, 4096), make([]byte, 1024)
	n, controlN, _, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		t.Fatal(err)
	}
	var said answer
	if err := json.Unmarshal(data[:n], &said); err != nil {
		t.Fatalf("%v: %q", err, data[:n])
	}
	got, err := received(control[:controlN])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(got) })
	return said, got
}

// listen returns a listening TCP socket as a descriptor of its own, and its address.
func listen(t *testing.T) (*os.File, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	return file, listener.Addr().String()
}

func TestWhoConnectsWhileNobodyServesIsAnsweredByTheNext(t *testing.T) {
	path := serve(t)
	file, address := listen(t)
	if said, _ := ask(t, path, `{"keep":["api"]}`, int(file.Fd())); said.Error != "" {
		t.Fatal(said.Error)
	}
	file.Close() // the first serve is gone
	client, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal("a connection was refused: ", err)
	}
	defer client.Close()
	said, fds := ask(t, path, `{"take":true}`)
	if !reflect.DeepEqual(said.Kept, []string{"api"}) || len(fds) != 1 {
		t.Fatalf("%+v with %d descriptors", said, len(fds))
	}
	fd, _, err := syscall.Accept(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if _, err := syscall.Write(fd, []byte("here")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := client.Read(got); err != nil || string(got) != "here" {
		t.Fatalf("%q %v", got, err)
	}
}

func TestWhatIsReplacedIsClosed(t *testing.T) {
	path := serve(t)
	first, address := listen(t)
	ask(t, path, `{"keep":["api"]}`, int(first.Fd()))
	first.Close()
	second, _ := listen(t)
	ask(t, path, `{"keep":["api","artifacts"]}`, int(second.Fd()), int(second.Fd()))
	second.Close()
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("the replaced socket still accepts")
	}
	if said, fds := ask(t, path, `{"take":true}`); len(fds) != 2 || len(said.Kept) != 2 {
		t.Errorf("%+v with %d descriptors", said, len(fds))
	}
}

func TestTwoWhoKeepAtOnceLeaveOneSetAndNoDescriptor(t *testing.T) {
	path := serve(t)
	file, _ := listen(t)
	defer file.Close()
	before := descriptors(t)
	var everyone sync.WaitGroup
	for range 8 {
		everyone.Go(func() {
			for range 20 {
				ask(t, path, `{"keep":["api"]}`, int(file.Fd()))
			}
		})
	}
	everyone.Wait()
	if after := descriptors(t); after != before+1 {
		t.Errorf("%d listening descriptors, before %d", after, before)
	}
	ask(t, path, `{"keep":[]}`)
	if said, fds := ask(t, path, `{"take":true}`); len(fds) != 0 || said.Error != "" {
		t.Errorf("%+v", said)
	}
}

func TestBadRequestsKeepNothingAndLeakNoDescriptor(t *testing.T) {
	path := serve(t)
	good, _ := listen(t)
	defer good.Close()
	plain, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	socket := int(good.Fd())
	before := descriptors(t)
	for line, fds := range map[string][]int{
		`{"keep":["api"]}`:               {},
		`{"keep":["api","api"]}`:         {socket, socket},
		`{"keep":["null"]}`:              {int(plain.Fd())},
		`{"keep":["api"],"take":true}`:   {socket},
		`{}`:                             {socket},
		`nonsense`:                       {socket},
		`{"keep":["api"],"else":"what"}`: {socket},
	} {
		if said, _ := ask(t, path, line, fds...); said.Error == "" {
			t.Errorf("%s was accepted", line)
		}
	}
	if said, fds := ask(t, path, `{"take":true}`); len(fds) != 0 || said.Error != "" {
		t.Errorf("%+v", said)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d listening or null descriptors, before %d", after, before)
	}
}

// descriptors counts those of this process that a request could have left: sockets that listen, and /dev/null.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, entry := range entries {
		target, _ := os.Readlink("/proc/self/fd/" + entry.Name()) // the one of ReadDir itself is gone
		var fd int
		fmt.Sscan(entry.Name(), &fd)
		listening, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
		if target == os.DevNull || strings.HasPrefix(target, "socket:") && err == nil && listening == 1 {
			count++
		}
	}
	return count
}
