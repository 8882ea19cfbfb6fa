// Command probe is the application of the agent's tests: it looks at its container from within and does what it is asked.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "exit" {
		fmt.Println("going")
		fmt.Fprintln(os.Stderr, "gone")
		os.Exit(7)
	}
	if len(os.Args) > 1 && os.Args[1] == "mount-proc" {
		if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	fmt.Println("probe started")
	for path, handler := range map[string]func(r *http.Request) (any, error){
		"/self":     self,
		"/file":     file,
		"/glob":     glob,
		"/try":      try,
		"/fetch":    fetch,
		"/held":     held,
		"/lookup":   lookup,
		"/question": question,
		"/udp":      udp,
		"/random":   random,
		"/eat":      eat,
		"/talk":     talk,
		"/clock":    func(*http.Request) (any, error) { return time.Now().UnixNano(), nil },
		"/kill":     func(*http.Request) (any, error) { return nil, syscall.Kill(syscall.Getpid(), syscall.SIGKILL) },
	} {
		http.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			answer, err := handler(r)
			if err != nil {
				answer = map[string]string{"error": err.Error()}
			}
			json.NewEncoder(w).Encode(answer)
		})
	}
	http.HandleFunc("/aws/lambda-microvms/runtime/v1/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Printf("hook %s %q\n", filepath.Base(r.URL.Path), body)
		if strings.HasSuffix(r.URL.Path, "/validate") {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(":8080", nil))
}

func self(*http.Request) (any, error) {
	var limit syscall.Rlimit
	syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	groups, _ := os.Getgroups()
	name, _ := os.Hostname()
	dir, _ := os.Getwd()
	status, err := os.ReadFile("/proc/self/status")
	return map[string]any{
		"pid": os.Getpid(), "uid": os.Getuid(), "gid": os.Getgid(), "groups": groups, "hostname": name, "dir": dir, "args": os.Args,
		"env": os.Environ(), "nofile": []uint64{limit.Cur, limit.Max}, "status": string(status),
	}, err
}

func file(r *http.Request) (any, error) {
	text, err := os.ReadFile(r.FormValue("path"))
	return string(text), err
}

func glob(r *http.Request) (any, error) { return filepath.Glob(r.FormValue("path")) }

// try does things that a container must, or must not, allow.
func try(r *http.Request) (any, error) {
	path := r.FormValue("path")
	switch r.FormValue("what") {
	case "write":
		return nil, os.WriteFile(path, []byte("x"), 0o644)
	case "mount":
		return nil, syscall.Mount("tmpfs", path, "tmpfs", 0, "")
	case "open":
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil {
			file.Close()
		}
		return nil, err
	case "nest": // a container of a user of ours, with a /proc of its own
		inner := exec.Command("/proc/self/exe", "mount-proc")
		inner.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		}
		text, err := inner.Output()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return nil, err
	case "mknod":
		return nil, syscall.Mknod(path, syscall.S_IFCHR|0o600, 1<<8|3)
	}
	return nil, fmt.Errorf("what?")
}

func fetch(r *http.Request) (any, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequest(cmp.Or(r.FormValue("method"), http.MethodGet), r.FormValue("url"), strings.NewReader(r.FormValue("body")))
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Rekindle-Guest", "1")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

// connection is one that survives the request that opened it.
var connection net.Conn

func held(r *http.Request) (any, error) {
	if address := r.FormValue("open"); address != "" {
		var err error
		connection, err = net.Dial("tcp", address)
		return nil, err
	}
	connection.SetDeadline(time.Now().Add(3 * time.Second))
	_, err := connection.Read(make([]byte, 1))
	return nil, err
}

func lookup(r *http.Request) (any, error) {
	return net.DefaultResolver.LookupHost(r.Context(), r.FormValue("name"))
}

// question asks a given server, over a given network, with Go's own resolver.
func question(r *http.Request) (any, error) {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, r.FormValue("network"), r.FormValue("server"))
	}}
	return resolver.LookupHost(r.Context(), r.FormValue("name"))
}

func udp(r *http.Request) (any, error) {
	conn, err := net.Dial("udp", r.FormValue("address"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("x"))
	return nil, err
}

func random(*http.Request) (any, error) {
	data := make([]byte, 16)
	_, err := rand.Read(data)
	return hex.EncodeToString(data), err
}

// talk says something again and again.
func talk(*http.Request) (any, error) {
	go func() {
		for range time.Tick(2 * time.Millisecond) {
			fmt.Println("tick")
		}
	}()
	return nil, nil
}

// eat takes memory until the kernel says stop.
func eat(*http.Request) (any, error) {
	var taken [][]byte
	for {
		chunk := make([]byte, 8<<20)
		for i := 0; i < len(chunk); i += 4096 {
			chunk[i] = 1
		}
		taken = append(taken, chunk)
		runtime.KeepAlive(taken)
	}
}
