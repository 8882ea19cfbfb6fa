package boot

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Listeners is a set of local TCP addresses that somebody listens on, as the kernel writes them: "0100007F:1F90".
type Listeners map[string]bool

// ReadListeners asks the kernel for those of this network namespace.
func ReadListeners() (Listeners, error) {
	found := Listeners{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		found.add(string(text))
	}
	return found, nil
}

// add takes the lines of a table whose state is LISTEN.
func (l Listeners) add(table string) {
	const address, state, listen = 1, 3, "0A"
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) > state && fields[state] == listen {
			l[fields[address]] = true
		}
	}
}

// Ports returns the ports of those that are not in without, sorted and each once.
func (l Listeners) Ports(without Listeners) []int {
	ports := []int{}
	for address := range l {
		_, port, _ := strings.Cut(address, ":")
		number, err := strconv.ParseUint(port, 16, 16)
		if err == nil && !without[address] {
			ports = append(ports, int(number))
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
