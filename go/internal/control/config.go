package control

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"rekindle/internal/egress"
	"rekindle/internal/ingress"
	"rekindle/internal/token"
)

// Config is the body of PUT /v1/config.
type Config struct {
	TokenKeys []struct {
		Kid string `json:"kid"`
		Key []byte `json:"key"` // base64 in JSON
	} `json:"token_keys"`
	Certificate string          `json:"certificate"` // path of a PEM file, read anew at each PUT
	PrivateKey  string          `json:"private_key"`
	Domain      string          `json:"domain"`
	IngressHost string          `json:"ingress_host"`
	HoldS       float64         `json:"hold_s"`
	Egress      egress.Settings `json:"egress"`
}

// apply checks everything before it changes anything.
func (s *Server) apply(config *Config) error {
	secrets := map[string][]byte{}
	for _, key := range config.TokenKeys {
		secrets[key.Kid] = key.Key
	}
	keys, err := token.NewKeys(secrets)
	if err != nil {
		return err
	}
	certificate, err := tls.LoadX509KeyPair(config.Certificate, config.PrivateKey)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	if _, err := netip.ParseAddr(config.IngressHost); err != nil {
		return fmt.Errorf("ingress_host: %w", err)
	}
	if config.HoldS <= 0 {
		return errors.New("hold_s must be more than 0")
	}
	if err := s.gateway.Set(config.Egress); err != nil {
		return fmt.Errorf("egress: %w", err)
	}
	s.proxy.Set(&ingress.Settings{Keys: keys, Hold: time.Duration(config.HoldS * float64(time.Second)), Domain: config.Domain, Settled: s.settled})
	s.endpoints.Configure(certificate, config.IngressHost)
	s.configured.Store(config)
	return nil
}
