package hook

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// answering serves one connection with raw bytes and tells what it was asked.
func answering(t *testing.T, answer string) (int, <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	asked := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		asked <- readRequest(conn)
		io.WriteString(conn, answer)
		if answer == "" {
			io.Copy(io.Discard, conn)
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port, asked
}

func readRequest(conn net.Conn) string {
	var raw strings.Builder
	request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(conn, &raw)))
	if err == nil {
		io.Copy(io.Discard, request.Body)
	}
	return raw.String()
}

func text(s string) *string { return &s }

func TestTheExactBytes(t *testing.T) {
	port, asked := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	hook := Hook{Name: "run", Port: port, TimeoutMS: 5000, Body: text(`{"a":"ü"}`), Host: "localhost:9000"}
	if result := hook.Call(t.Context()); result != (Result{Status: 200}) || !result.Passed() {
		t.Fatalf("got %+v", result)
	}
	want := "POST /aws/lambda-microvms/runtime/v1/run HTTP/1.1\r\nHost: localhost:9000\r\n" +
		"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{\"a\":\"ü\"}"
	if got := <-asked; got != want {
		t.Fatalf("sent %q", got)
	}
}

func TestABuildHook(t *testing.T) {
	port, asked := answering(t, "HTTP/1.1 503 Not yet\r\n\r\n")
	hook := Hook{Name: "ready", Port: port, TimeoutMS: 5000, Host: "x.example", UserAgent: text("smithy-java/1.6.0"), RequestID: text("1-2")}
	if result := hook.Call(t.Context()); result != (Result{Status: 503}) || result.Passed() {
		t.Fatalf("got %+v", result)
	}
	want := "POST /aws/lambda-microvms/runtime/v1/ready HTTP/1.1\r\nHost: x.example\r\n" +
		"User-Agent: smithy-java/1.6.0\r\nx-amzn-requestid: 1-2\r\nContent-Length: 0\r\n\r\n"
	if got := <-asked; got != want {
		t.Fatalf("sent %q", got)
	}
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		want   Result
	}{
		"chunked":              {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Result{Status: 200}},
		"until the end":        {"HTTP/1.0 500 Oh\r\n\r\nsome text", Result{Status: 500}},
		"100 first":            {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", Result{Status: 204}},
		"no HTTP":              {"hello\r\n", Result{Error: Broken}},
		"a body that is short": {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Result{Error: Broken}},
	} {
		t.Run(name, func(t *testing.T) {
			port, _ := answering(t, c.answer)
			if result := (Hook{Name: "run", Port: port, TimeoutMS: 5000, Host: "h"}).Call(t.Context()); result != c.want {
				t.Fatalf("got %+v", result)
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	if result := (Hook{Name: "run", Port: port, TimeoutMS: 5000, Host: "h"}).Call(t.Context()); result != (Result{Error: Refused}) {
		t.Fatalf("got %+v", result)
	}
}

func TestNoAnswerInTime(t *testing.T) {
	port, _ := answering(t, "")
	if result := (Hook{Name: "run", Port: port, TimeoutMS: 30, Host: "h"}).Call(t.Context()); result != (Result{Error: Timeout}) {
		t.Fatalf("got %+v", result)
	}
}
