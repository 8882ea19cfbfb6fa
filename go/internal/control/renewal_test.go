package control

import (
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptrace"
	"testing"
)

// A service that is started again gives its configuration and routes anew, and one that has renewed its certificate the configuration.
func TestWhatIsGivenAgainCutsNobody(t *testing.T) {
	bothProtocols(t, func(t *testing.T, choose func(*http.Protocols, bool)) {
		m := startRelay(t).running("vm-1", nil)
		port := app(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
		old, oldRoots := m.browser(choose), m.roots
		if reused, _ := m.asked(old, port); reused {
			t.Fatal("the first connection was there before")
		}
		m.makeCertificate() // in place of the old one, as the service does it
		m.ok("PUT", "/v1/config", m.config)
		m.ok("PUT", "/vms/vm-1", m.route)
		m.connect()
		m.state("running")
		if reused, _ := m.asked(old, port); !reused {
			t.Error("the connection was cut")
		}
		reused, certificate := m.asked(m.browser(choose), port)
		if _, err := certificate.Verify(x509.VerifyOptions{Roots: m.roots}); reused || err != nil {
			t.Errorf("a new connection has not the new certificate: %v", err)
		}
		if _, err := certificate.Verify(x509.VerifyOptions{Roots: oldRoots}); err == nil {
			t.Error("a new connection has the old certificate")
		}
	})
}

// asked makes a request and tells whether its connection was there before, and with which certificate.
func (m *machine) asked(client *http.Client, port int) (bool, *x509.Certificate) {
	m.Helper()
	var reused bool
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { reused = got.Reused }}
	request := m.request("GET", "/", port, nil)
	response, _ := do(m.TB, client, request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	return reused, response.TLS.PeerCertificates[0]
}
