// rekindle-jail starts one program (a VMM or a disk tool) inside walls: namespaces, a root file system of its own that
// holds nothing but what the specification names, resource limits, no capabilities, no way to gain privileges.
//
//	rekindle-jail        reads a specification (JSON, see internal/jail) from descriptor 0, reports on descriptor 1
//	rekindle-jail tsc    prints the rate of this machine's time stamp counter in kHz
package main

import (
	"fmt"
	"os"

	"rekindle/internal/jail"
	"rekindle/internal/tsc"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "rekindle-jail:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		return jail.Start(os.Stdin, os.Stdout)
	case args[0] == jail.InsideArg:
		return jail.Enter()
	case args[0] == "tsc":
		khz, err := tsc.MeasureKHz()
		if err == nil {
			fmt.Println(khz)
		}
		return err
	}
	return fmt.Errorf("unknown argument %q", args[0])
}
