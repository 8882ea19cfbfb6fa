package egress

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

func policy(t testing.TB, exceptions ...string) *Policy {
	t.Helper()
	p, err := NewPolicy(exceptions)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var forbiddenAddresses = []string{
	"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1", "127.255.0.1",
	"169.254.0.1", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1",
	"192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1",
	"255.255.255.255", "168.63.129.16",
	"::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8",
	"64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::10.1.2.3", "64:ff9b:1::8.8.8.8", "100::1",
	"2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "3fff::1", "3fff:fff::1",
	"2002:7f00:1::1", "2002:a00:1::", "2002:a9fe:a9fe::1", "2002:c0a8:101::1", "2600::5efe:10.0.0.1", "2600::200:5efe:127.0.0.1",
	"fc00::1", "fd00:ec2::254", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "2600::1%lo", "fec0::1", "ff02::1", "ff0e::1", "4000::1", "5f00::1", "c000::1",
}

var publicAddresses = []string{
	"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "126.0.0.1", "128.0.0.1", "169.253.0.1", "172.15.0.1",
	"172.32.0.1", "192.0.1.1", "192.167.0.1", "192.169.0.1", "198.17.0.1", "198.20.0.1", "223.255.255.255", "168.63.129.15",
	"2001:4860:4860::8888", "2001:200::1", "2606:4700:4700::1111", "2a00:1450::1", "64:ff9b::8.8.8.8", "2002:808:808::1",
}

func TestForbidden(t *testing.T) {
	p := policy(t, "127.0.0.1:8099")
	for _, text := range forbiddenAddresses {
		address := netip.MustParseAddr(text)
		var denied *Denied
		if err := p.CheckTarget(netip.AddrPortFrom(address, 443)); !errors.As(err, &denied) {
			t.Errorf("target %s: %v", text, err)
		}
		if text == "127.0.0.1" {
			continue
		}
		if err := p.CheckAnswer(address); !errors.As(err, &denied) {
			t.Errorf("answer %s: %v", text, err)
		}
	}
}

func TestPublic(t *testing.T) {
	p := policy(t)
	for _, text := range publicAddresses {
		if err := p.CheckTarget(netip.MustParseAddrPort(net.JoinHostPort(text, "443"))); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestEveryAddressOfThisMachineIsForbidden(t *testing.T) {
	p := policy(t)
	own, err := net.InterfaceAddrs()
	if err != nil || len(own) == 0 {
		t.Fatal(own, err)
	}
	for _, one := range own {
		address := netip.MustParsePrefix(one.String()).Addr()
		if err := p.CheckAnswer(address); err == nil {
			t.Errorf("%s is allowed", address)
		}
	}
}

// The interfaces are given here because no machine of ours has a public address.
func TestOwnPublicAddressesInAnyForm(t *testing.T) {
	p := policy(t)
	p.own = func() ([]net.Addr, error) {
		return []net.Addr{
			&net.IPNet{IP: net.IPv4(8, 8, 4, 4), Mask: net.CIDRMask(24, 32)},
			&net.IPNet{IP: net.ParseIP("2600:1::5"), Mask: net.CIDRMask(64, 128)},
		}, nil
	}
	for _, text := range []string{"8.8.4.4", "2600:1::5", "64:ff9b::8.8.4.4", "2002:808:404::1", "2600::5efe:8.8.4.4"} {
		var denied *Denied
		if err := p.CheckAnswer(netip.MustParseAddr(text)); !errors.As(err, &denied) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := p.CheckAnswer(netip.MustParseAddr("8.8.4.5")); err != nil {
		t.Error(err)
	}
}

func TestUnreadableInterfacesRefuse(t *testing.T) {
	p := policy(t)
	p.own = func() ([]net.Addr, error) { return nil, errors.New("no netlink") }
	if p.CheckAnswer(netip.MustParseAddr("8.8.8.8")) == nil {
		t.Error("allowed without knowing this machine's addresses")
	}
}

func TestExceptionsAreForOnePort(t *testing.T) {
	p := policy(t, "127.0.0.1:8099", "[::1]:8100")
	for text, want := range map[string]bool{"127.0.0.1:8099": true, "127.0.0.1:8100": false, "[::1]:8100": true, "[::1]:8099": false} {
		if got := p.CheckTarget(netip.MustParseAddrPort(text)) == nil; got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if _, err := NewPolicy([]string{"localhost:80"}); err == nil {
		t.Error("a name was taken")
	}
}

func FuzzPolicyNeverAllowsWhatEmbedsAForbiddenAddress(f *testing.F) {
	p := policy(f)
	f.Add(uint32(0x7f000001), byte(0))
	f.Add(uint32(0x0a000001), byte(3))
	f.Fuzz(func(t *testing.T, v4 uint32, form byte) {
		inner := [4]byte{byte(v4 >> 24), byte(v4 >> 16), byte(v4 >> 8), byte(v4)}
		if p.CheckAnswer(netip.AddrFrom4(inner)) == nil {
			return
		}
		shapes := [][2]string{{"64:ff9b::", "12"}, {"2002::", "2"}, {"2600::5efe:0:0", "12"}, {"::ffff:0:0", "12"}, {"::", "12"}}
		shape := shapes[int(form)%len(shapes)]
		raw := netip.MustParseAddr(shape[0]).As16()
		at := map[string]int{"12": 12, "2": 2}[shape[1]]
		copy(raw[at:], inner[:])
		if err := p.CheckAnswer(netip.AddrFrom16(raw)); err == nil {
			t.Errorf("%v allowed", netip.AddrFrom16(raw))
		}
	})
}
