// Command agent is /init of every guest. With the argument "container" it is the first step of the application's own process.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"runtime/debug"

	"rekindle/internal/agent"
	"rekindle/internal/agent/boot"
	"rekindle/internal/agent/container"
	"rekindle/internal/channel"
)

// version is set at build time.
var version = "dev"

// memoryLimit is when the garbage collector starts to work harder.
const memoryLimit = 64 << 20

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "container":
		os.Exit(container.Run())
	case os.Getpid() == 1:
		err := run()
		fmt.Fprintf(os.Stderr, "rekindle-agent: %v\n", err)
		if err := boot.PowerOff(); err != nil {
			fmt.Fprintf(os.Stderr, "rekindle-agent: %v\n", err)
		}
		os.Exit(1) // the kernel panics, and the machine stops
	default:
		fmt.Fprintln(os.Stderr, "rekindle-agent", version, "is the first process of a Rekindle guest; it does nothing elsewhere")
		os.Exit(2)
	}
}

// run boots and serves; it returns only with what went wrong.
func run() error {
	debug.SetMemoryLimit(memoryLimit)
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"mount file systems", boot.Mounts},
		{"protect the agent", boot.Protect},
		{"load modules", boot.Modules},
		{"mount disks", boot.Overlay},
		{"write identity", writeIdentity},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("boot failed: %s: %w", step.name, err)
		}
	}
	in, out, err := openPorts()
	if err != nil {
		return fmt.Errorf("boot failed: open the channel: %w", err)
	}
	guest, err := agent.New(version, logger(), out)
	if err != nil {
		return fmt.Errorf("boot failed: open the way out: %w", err)
	}
	return guest.Serve(in)
}

func openPorts() (in, out *channel.Port, err error) {
	paths, err := boot.FindPorts("rekindle.in", "rekindle.out")
	if err != nil {
		return nil, nil, err
	}
	if in, err = channel.OpenPort(paths[0]); err != nil {
		return nil, nil, err
	}
	out, err = channel.OpenPort(paths[1])
	return in, out, err
}

// writeIdentity gives the machine a name for the time before its first thaw, and its applications what they may read.
func writeIdentity() error {
	id := make([]byte, 16)
	rand.Read(id)
	if err := container.WriteFiles(boot.Files, container.NewIdentity("localhost", hex.EncodeToString(id))); err != nil {
		return err
	}
	return container.Publish(boot.Files)
}

func logger() agent.Log {
	if !boot.Flag("rekindle.debug") {
		return func(string, ...any) {}
	}
	return func(format string, args ...any) { fmt.Fprintf(os.Stderr, "rekindle-agent: "+format+"\n", args...) }
}
