package dns

import (
	"bufio"
	"net/netip"
	"os"
	"strings"
)

const maxResolvers = 3 // as resolv.conf(5)

// HostResolvers reads the name servers of a resolv.conf; with none there it is the local one, as resolv.conf(5) says.
func HostResolvers(path string) ([]netip.AddrPort, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []netip.AddrPort
	lines := bufio.NewScanner(file)
	for lines.Scan() && len(found) < maxResolvers {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if address, err := netip.ParseAddr(fields[1]); err == nil {
			found = append(found, netip.AddrPortFrom(address, 53))
		}
	}
	if len(found) == 0 {
		found = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	}
	return found, lines.Err()
}
