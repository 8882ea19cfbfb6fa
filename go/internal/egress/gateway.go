package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"rekindle/internal/dns"
	"rekindle/internal/tunnel"
)

const (
	dialTimeout     = 10 * time.Second
	maxConnections  = 512 // of one guest at a time
	maxQuestions    = 64  // of one guest at a time
	hostResolvConf  = "/etc/resolv.conf"
	keepAlivePeriod = 60 * time.Second
)

// Settings is what an operator can say about the way out.
type Settings struct {
	PublicTestAddresses []string `json:"public_test_addresses"`
	Resolvers           []string `json:"resolvers"` // "address:port"; none: the host's own
}

// Gateway is the way out of all guests. Its settings can change while it runs.
type Gateway struct {
	current atomic.Pointer[rules]
	global6 func() bool
}

type rules struct {
	policy    *Policy
	resolvers []netip.AddrPort
	test6     bool // a test declares an IPv6 address public
}

// NewGateway makes a gateway without exceptions that asks the host's resolvers.
func NewGateway() *Gateway {
	g := &Gateway{global6: hasGlobal6}
	if err := g.Set(Settings{}); err != nil {
		panic(err) // empty settings are always right
	}
	return g
}

// Set replaces the settings. It returns what is wrong with them and then changes nothing.
func (g *Gateway) Set(settings Settings) error {
	policy, err := NewPolicy(settings.PublicTestAddresses)
	if err != nil {
		return err
	}
	made := &rules{policy: policy}
	for _, text := range settings.Resolvers {
		resolver, err := netip.ParseAddrPort(text)
		if err != nil {
			return fmt.Errorf("resolvers: %w", err)
		}
		made.resolvers = append(made.resolvers, resolver)
	}
	for address := range policy.hosts {
		made.test6 = made.test6 || address.Is6()
	}
	g.current.Store(made)
	return nil
}

// resolversNow reads the host's resolvers anew for each question: they change when a laptop moves.
func (r *rules) resolversNow() ([]netip.AddrPort, error) {
	if len(r.resolvers) > 0 {
		return r.resolvers, nil
	}
	return dns.HostResolvers(hostResolvConf)
}

// hasGlobal6 tells whether the kernel has a route to the IPv6 internet. Connecting a UDP socket sends nothing.
func hasGlobal6() bool {
	conn, err := net.Dial("udp6", "[2000::1]:53")
	if err != nil {
		return false
	}
	defer conn.Close()
	local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	return global6.Contains(local)
}

// guest answers one guest's *out* port.
type guest struct {
	gateway     *Gateway
	in, out     *atomic.Int64
	connections atomic.Int64
	questions   atomic.Int64
}

// Guest makes the handler of one guest's *out* port. Bytes from outside are added to in, bytes from the guest to out.
func (g *Gateway) Guest(in, out *atomic.Int64) http.Handler {
	return &guest{gateway: g, in: in, out: out}
}

func (g *guest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		g.connect(w, r)
	case r.Method == http.MethodPost && r.URL.Path == "/v1/dns":
		g.resolve(w, r)
	default:
		http.NotFound(w, r)
	}
}

// connect opens a connection for the guest if the policy allows it, and returns when that has ended.
func (g *guest) connect(w http.ResponseWriter, r *http.Request) {
	defer g.connections.Add(-1)
	if g.connections.Add(1) > maxConnections {
		tunnel.Refuse(w, tunnel.ReasonRefused)
		return
	}
	target, err := netip.ParseAddrPort(r.Host)
	if err != nil {
		tunnel.Refuse(w, tunnel.ReasonDenied) // a name, or nonsense: guests dial addresses
		return
	}
	conn, err := g.gateway.dial(r.Context(), target)
	if err != nil {
		tunnel.Refuse(w, reason(err))
		return
	}
	through, err := tunnel.Accept(w, r)
	if err != nil {
		tunnel.Reset(conn)
		return
	}
	tunnel.Splice(through, &meteredConn{conn, g})
}

// dial checks target, dials it, and checks again what the kernel is asked to connect to: the last word is at the last moment.
func (g *Gateway) dial(ctx context.Context, target netip.AddrPort) (*net.TCPConn, error) {
	policy := g.current.Load().policy
	if err := policy.CheckTarget(target); err != nil {
		return nil, err
	}
	goal := policy.Destination(target)
	dialer := net.Dialer{
		Timeout:   dialTimeout,
		KeepAlive: keepAlivePeriod,
		Control: func(_, address string, _ syscall.RawConn) error {
			dialled, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if dialled == goal && goal != target {
				return nil // a test's stand-in
			}
			return policy.CheckTarget(dialled)
		},
	}
	conn, err := dialer.DialContext(ctx, "tcp", goal.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func reason(err error) tunnel.Reason {
	var denied *Denied
	switch {
	case errors.As(err, &denied):
		return tunnel.ReasonDenied
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return tunnel.ReasonTimeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return tunnel.ReasonRefused
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		slog.Error("no descriptors left for a guest's connection", "error", err)
	}
	return tunnel.ReasonUnreachable
}

// meteredConn counts a guest's connection to outside.
type meteredConn struct {
	*net.TCPConn
	guest *guest
}

func (c *meteredConn) Read(data []byte) (int, error) {
	n, err := c.TCPConn.Read(data)
	c.guest.in.Add(int64(n))
	return n, err
}

func (c *meteredConn) Write(data []byte) (int, error) {
	n, err := c.TCPConn.Write(data)
	c.guest.out.Add(int64(n))
	return n, err
}
