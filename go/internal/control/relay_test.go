package control

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rekindle/internal/guesttest"
	"rekindle/internal/token"
)

const patience = 10 * time.Second // of a busy machine

var tokenKey = bytes.Repeat([]byte{7}, 32)

// relay is a whole relay in this process, steered through its socket.
type relay struct {
	testing.TB
	folder   string
	socket   string
	server   *Server
	http     *http.Server
	listener *Listener
	client   *http.Client
	roots    *x509.CertPool
	config   map[string]any
}

func startRelay(t testing.TB) *relay {
	t.Helper()
	// deeper than sun_path holds
	folder := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	r := &relay{TB: t, folder: folder, socket: filepath.Join(folder, "relay.sock")}
	r.start()
	t.Cleanup(r.stop)
	certificate, key := r.makeCertificate()
	r.config = map[string]any{
		"token_keys":   []any{map[string]any{"kid": "k1", "key": base64.StdEncoding.EncodeToString(tokenKey)}},
		"certificate":  certificate,
		"private_key":  key,
		"domain":       "",
		"ingress_host": "127.0.0.1",
		"hold_s":       10,
		"egress":       map[string]any{"public_test_addresses": []string{}, "resolvers": []string{}},
	}
	r.ok("PUT", "/v1/config", r.config)
	return r
}

func (r *relay) start() {
	r.Helper()
	var err error
	if r.listener, err = Listen(r.socket); err != nil {
		r.Fatal(err)
	}
	r.server = NewServer("test")
	r.http = &http.Server{Handler: r.server.Handler()}
	go r.http.Serve(r.listener)
	r.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialSocket(ctx, r.socket)
	}}}
}

func (r *relay) stop() {
	r.http.Close()
	r.client.CloseIdleConnections()
	r.server.Close()
	r.listener.Unlock()
}

func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	return new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), filepath.Base(path)))
}

func (r *relay) makeCertificate() (certificatePath, keyPath string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost", "*.localhost", "*.vm.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		r.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		r.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	r.roots = x509.NewCertPool()
	r.roots.AppendCertsFromPEM(certificate)
	certificatePath, keyPath = filepath.Join(r.folder, "server.pem"), filepath.Join(r.folder, "server.key")
	for path, data := range map[string][]byte{certificatePath: certificate, keyPath: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			r.Fatal(err)
		}
	}
	return certificatePath, keyPath
}

// call does a control request.
func (r *relay) call(method, path string, body any) (int, map[string]any) {
	r.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		r.Fatal(err)
	}
	request, err := http.NewRequest(method, "http://relay"+path, bytes.NewReader(encoded))
	if err != nil {
		r.Fatal(err)
	}
	response, err := r.client.Do(request)
	if err != nil {
		r.Fatal(err)
	}
	defer response.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		r.Fatalf("%s %s: %v", method, path, err)
	}
	return response.StatusCode, answer
}

func (r *relay) ok(method, path string, body any) map[string]any {
	r.Helper()
	status, answer := r.call(method, path, body)
	if status != http.StatusOK {
		r.Fatalf("%s %s: %d %v", method, path, status, answer)
	}
	return answer
}

// machine is a VM as the tests see it.
type machine struct {
	*relay
	id    string
	route map[string]any
	guest *guesttest.Guest
	port  int
}

func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// machine adds a route for a paused guest.
func (r *relay) machine(id string, change map[string]any) *machine {
	r.Helper()
	folder := filepath.Join(r.folder, id)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		r.Fatal(err)
	}
	m := &machine{relay: r, id: id, guest: guesttest.Start(r.TB, folder), port: freePort(r.TB)}
	m.route = map[string]any{
		"generation": 1, "state": "held", "endpoint_port": m.port, "endpoint_host": "host-" + id, "default_port": 8080, "auto_resume": true,
		"in": m.guest.In, "out": m.guest.Out, "egress": "internet", "ingress": true,
	}
	for key, value := range change {
		m.route[key] = value
	}
	m.port = m.route["endpoint_port"].(int)
	r.ok("PUT", "/vms/"+id, m.route)
	return m
}

// running adds a route for a guest and brings it to life.
func (r *relay) running(id string, change map[string]any) *machine {
	r.Helper()
	m := r.machine(id, change)
	m.guest.Run()
	m.connect()
	m.state("running")
	return m
}

func (m *machine) connect() {
	m.Helper()
	m.ok("POST", "/vms/"+m.id+"/connect?ready=1", map[string]any{"timeout_ms": patience.Milliseconds()})
}

func (m *machine) disconnect() {
	m.Helper()
	m.ok("POST", "/vms/"+m.id+"/disconnect", map[string]any{})
}

func (m *machine) state(state string) {
	m.Helper()
	m.ok("PUT", "/vms/"+m.id+"/state", map[string]any{"state": state})
}

func (m *machine) listed() map[string]any {
	m.Helper()
	all := m.ok("GET", "/vms", nil)[m.id].(map[string]any)
	one := m.ok("GET", "/vms/"+m.id, nil)
	if started, now := one["relay_started_at_ms"].(float64), float64(time.Now().UnixMilli()); started > now || started < now-1000*3600 {
		m.Errorf("the relay was started at %.0f, and it is %.0f", started, now)
	}
	if len(one) != len(all)+1 || one["endpoint_port"] != all["endpoint_port"] {
		m.Errorf("alone %v, in the list %v", one, all)
	}
	return all
}

// token mints a token for this VM.
func (m *machine) token(ports ...int) string {
	claims := token.Claims{VM: m.id, Generation: 1, ExpiresAtS: time.Now().Unix() + 60, Use: token.UseApp}
	for _, port := range ports {
		claims.Ports = append(claims.Ports, [2]int{port, port})
	}
	return mint(m.TB, claims)
}

func mint(t testing.TB, claims token.Claims) string {
	t.Helper()
	plain, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(tokenKey)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	head := encode([]byte(`{"kid":"k1","alg":"dir","enc":"A256GCM"}`))
	iv := make([]byte, 12)
	rand.Read(iv)
	sealed := aead.Seal(nil, iv, plain, []byte(head))
	return strings.Join([]string{head, "", encode(iv), encode(sealed[:len(sealed)-16]), encode(sealed[len(sealed)-16:])}, ".")
}

// browser is an HTTPS client of one protocol.
func (m *machine) browser(choose func(*http.Protocols, bool)) *http.Client {
	var protocols http.Protocols
	choose(&protocols, true)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: m.roots}, Protocols: &protocols, DisableCompression: true, ExpectContinueTimeout: patience,
		ResponseHeaderTimeout: 2 * patience,
	}
	m.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

var (
	http1 = (*http.Protocols).SetHTTP1
	http2 = (*http.Protocols).SetHTTP2
)

// bothProtocols runs a test with an HTTP/1.1 and with an HTTP/2 client.
func bothProtocols(t *testing.T, test func(t *testing.T, choose func(*http.Protocols, bool))) {
	t.Run("http1", func(t *testing.T) { test(t, http1) })
	t.Run("http2", func(t *testing.T) { test(t, http2) })
}

func (m *machine) url(path string) string { return fmt.Sprintf("https://localhost:%d%s", m.port, path) }

// request makes a request with a token for one guest port.
func (m *machine) request(method, path string, port int, body io.Reader) *http.Request {
	m.Helper()
	request, err := http.NewRequest(method, m.url(path), body)
	if err != nil {
		m.Fatal(err)
	}
	request.Header.Set("X-aws-proxy-auth", m.token(port))
	request.Header.Set("X-aws-proxy-port", fmt.Sprint(port))
	return request
}

func do(t testing.TB, client *http.Client, request *http.Request) (*http.Response, string) {
	t.Helper()
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// app is an HTTP server "in the guest"; it returns the guest port.
func app(t testing.TB, handler http.HandlerFunc) int {
	t.Helper()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return serveApp(t, &http.Server{Handler: handler, Protocols: &protocols})
}

func serveApp(t testing.TB, server *http.Server) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return listener.Addr().(*net.TCPAddr).Port
}

// eventually waits for a condition that another goroutine brings about without telling.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatal("never: " + what)
		case <-tick.C:
		}
	}
}
