// Command relay carries all bytes between microVMs and the world: HTTPS endpoints in, guest channels, the way out.
// It is steered by `rekindle serve` through a unix socket and outlives it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"rekindle/internal/control"
	"rekindle/internal/keep"
	"rekindle/internal/logfile"
)

// version is set by the linker.
var version = "dev"

const (
	headTimeout = 10 * time.Second
	logBytes    = 8 << 20 // of each of three files
)

func main() {
	socket := flag.String("socket", "", "path of the control socket; its folder must be ours alone")
	log := flag.String("log", "", "path of the log file; without it the log goes to descriptor 2")
	flag.Parse()
	if *socket == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := logTo(*log); err != nil {
		fmt.Fprintln(os.Stderr, "rekindle-relay:", err)
		os.Exit(1)
	}
	if err := run(*socket); err != nil {
		slog.Error("relay ends", "error", err)
		os.Exit(1)
	}
}

// logTo begins the log: a bounded file, where descriptor 2 goes as well, or descriptor 2 as it is.
func logTo(path string) error {
	var out io.Writer = os.Stderr
	if path != "" {
		file, err := logfile.Open(path, logBytes)
		if err != nil {
			return err
		}
		if err := file.TakeStderr(); err != nil {
			return err
		}
		out = file
	}
	slog.SetDefault(slog.New(slog.NewJSONHandler(out, nil)))
	return nil
}

// run serves until SIGTERM or SIGINT.
func run(socket string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	listener, err := control.Listen(socket)
	if err != nil {
		return err
	}
	defer listener.Unlock() // the end of the process does it as well
	sockets, err := listener.Beside("sockets.sock")
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	keeper := keep.New()
	defer keeper.Close()
	go keeper.Serve(sockets)
	defer sockets.Close()
	relay := control.NewServer(version)
	server := &http.Server{Handler: relay.Handler(), ReadHeaderTimeout: headTimeout}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := announce(); err != nil {
		return errors.Join(err, listener.Close())
	}
	slog.Info("relay listens", "socket", socket, "pid", os.Getpid(), "version", version)
	err = server.Serve(listener)
	relay.Close()
	if errors.Is(err, http.ErrServerClosed) {
		slog.Info("relay ended in order")
		return nil
	}
	return err
}

// announce tells whoever has started us that the socket is there, and lets go of descriptor 1: the reader's end closes.
func announce() error {
	if _, err := fmt.Println("listening"); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	return syscall.Dup3(int(null.Fd()), 1, syscall.O_CLOEXEC)
}
