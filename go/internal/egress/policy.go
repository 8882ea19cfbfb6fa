// Package egress answers a guest's *out* port: it decides where a guest may connect to, dials, and answers its DNS questions.
// There is one policy: public addresses only. Everything a guest says is hostile.
package egress

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Denied says that the policy refuses an address, and why.
type Denied struct {
	Address netip.Addr
	Reason  string
}

func (d *Denied) Error() string { return fmt.Sprintf("%s is %s", d.Address, d.Reason) }

type block struct {
	prefix netip.Prefix
	reason string
}

func blocks(reason string, prefixes ...string) []block {
	made := make([]block, len(prefixes))
	for i, prefix := range prefixes {
		made[i] = block{netip.MustParsePrefix(prefix), reason}
	}
	return made
}

// forbidden4 follows the IANA special-purpose registry (RFC 6890), plus what clouds put elsewhere.
var forbidden4 = concat(
	blocks("this network", "0.0.0.0/8"),
	blocks("private", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
	blocks("shared address space", "100.64.0.0/10"),
	blocks("loopback", "127.0.0.0/8"),
	blocks("link-local or metadata", "169.254.0.0/16"),
	blocks("a protocol assignment", "192.0.0.0/24"),
	blocks("documentation", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
	blocks("a 6to4 relay", "192.88.99.0/24"),
	blocks("for benchmarks", "198.18.0.0/15"),
	blocks("multicast", "224.0.0.0/4"),
	blocks("reserved or broadcast", "240.0.0.0/4"),
	blocks("a cloud's host agent", "168.63.129.16/32"), // Azure's wire server: public by its number, answers only the machine itself
)

// Only global unicast is public in IPv6, less what RFC 6890 and its successors take out of it.
var (
	global6    = netip.MustParsePrefix("2000::/3")
	forbidden6 = concat(
		blocks("a protocol assignment", "2001::/23"), // Teredo, ORCHID, benchmarks, anycast of protocols
		blocks("documentation", "2001:db8::/32", "3fff::/20"),
	)
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	sixToV4 = netip.MustParsePrefix("2002::/16")
)

func concat(lists ...[]block) []block {
	var all []block
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// Policy decides. It is immutable and safe for concurrent use.
type Policy struct {
	exceptions map[netip.AddrPort]netip.AddrPort // what a guest dials -> what is dialled
	hosts      map[netip.Addr]bool               // the addresses of exceptions
	own        func() ([]net.Addr, error)
}

// NewPolicy makes the policy. Addresses in exceptions count as public: tests declare their servers so. `A=B` lets B stand for
// A: a guest's own loopback never leaves the guest, so a test's loopback server needs another address to be dialled by.
func NewPolicy(exceptions []string) (*Policy, error) {
	p := &Policy{exceptions: map[netip.AddrPort]netip.AddrPort{}, hosts: map[netip.Addr]bool{}, own: net.InterfaceAddrs}
	for _, text := range exceptions {
		target, stand, err := parseException(text)
		if err != nil {
			return nil, fmt.Errorf("public_test_addresses: %w", err)
		}
		p.exceptions[target] = stand
		p.hosts[target.Addr()] = true
	}
	return p, nil
}

func parseException(text string) (target, stand netip.AddrPort, err error) {
	dialled, instead, found := strings.Cut(text, "=")
	if target, err = netip.ParseAddrPort(dialled); err != nil || !found {
		return target, target, err
	}
	stand, err = netip.ParseAddrPort(instead)
	return target, stand, err
}

// Destination is where a connection to target really goes: there, unless a test's exception says otherwise.
func (p *Policy) Destination(target netip.AddrPort) netip.AddrPort {
	if stand, ok := p.exceptions[target]; ok {
		return stand
	}
	return target
}

// CheckTarget returns nil when a guest may connect to target, else a *Denied. An error of another kind means that the machine's
// own addresses could not be read; treat it as a refusal.
func (p *Policy) CheckTarget(target netip.AddrPort) error {
	if _, ok := p.exceptions[target]; ok {
		return nil
	}
	return p.check(target.Addr())
}

// CheckAnswer is CheckTarget for an address in a DNS answer, where no port is known yet.
func (p *Policy) CheckAnswer(address netip.Addr) error {
	if p.hosts[address] {
		return nil
	}
	return p.check(address)
}

func (p *Policy) check(address netip.Addr) error {
	if reason := special(address); reason != "" {
		return &Denied{address, reason}
	}
	return p.checkOwn(address)
}

// checkOwn reads the interfaces anew each time: addresses come and go while we run.
func (p *Policy) checkOwn(address netip.Addr) error {
	own, err := p.own()
	if err != nil {
		return fmt.Errorf("read this machine's addresses: %w", err)
	}
	embedded, hasEmbedded := embedded4(address)
	for _, one := range own {
		prefix, err := netip.ParsePrefix(one.String())
		if err != nil {
			return fmt.Errorf("read this machine's addresses: %w", err)
		}
		mine := prefix.Addr().Unmap()
		if mine == address || hasEmbedded && mine == embedded {
			return &Denied{address, "this machine's own"}
		}
	}
	return nil
}

// special says what keeps an address from being public, or "".
func special(address netip.Addr) string {
	switch {
	case !address.IsValid():
		return "no address"
	case address.Zone() != "":
		return "scoped to an interface"
	case address.Is4():
		return find(forbidden4, address)
	}
	if inner, ok := embedded4(address); ok {
		if reason := find(forbidden4, inner); reason != "" {
			return "a form of " + inner.String() + ", " + reason
		}
	}
	switch {
	case address.Is4In6():
		return "an IPv4-mapped address" // never a form that a name or a program needs here
	case nat64.Contains(address):
		return "" // what an IPv6-only network uses; its IPv4 address was checked above
	case !global6.Contains(address):
		return "not global unicast"
	}
	return find(forbidden6, address)
}

func find(list []block, address netip.Addr) string {
	for _, one := range list {
		if one.prefix.Contains(address) {
			return one.reason
		}
	}
	return ""
}

// embedded4 returns the IPv4 address to which a network would translate or tunnel an IPv6 one: NAT64, 6to4, ISATAP, mapped.
func embedded4(address netip.Addr) (netip.Addr, bool) {
	if !address.Is6() {
		return netip.Addr{}, false
	}
	b := address.As16()
	switch {
	case address.Is4In6(), nat64.Contains(address):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixToV4.Contains(address):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP, RFC 5214 §6.1
		return netip.AddrFrom4([4]byte(b[12:16])), true
	}
	return netip.Addr{}, false
}
