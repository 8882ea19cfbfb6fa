// Package token opens endpoint tokens: compact JWE, `dir`, A256GCM (docs/contracts.md §5; RFC 7516 §3.1). Python mints them.
package token

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

const (
	ivBytes   = 12
	tagBytes  = 16
	keyBytes  = 32
	maxLength = 8 << 10
	// UseApp is the use of a token for the app's own ports.
	UseApp = "app"
)

// ErrUnreadable says that a text is no token of ours. Why is nobody's business but the log's: see the wrapped error.
var ErrUnreadable = errors.New("unreadable token")

var encoding = base64.RawURLEncoding.Strict()

// Claims is what a token says.
type Claims struct {
	VM         string   `json:"vm"`
	Generation int64    `json:"gen"`
	Ports      [][2]int `json:"ports"` // inclusive ranges of guest ports
	ExpiresAtS int64    `json:"exp"`
	Use        string   `json:"use"`
}

// Allows tells whether the token covers a guest port.
func (c *Claims) Allows(port int) bool {
	for _, span := range c.Ports {
		if span[0] <= port && port <= span[1] {
			return true
		}
	}
	return false
}

// Keys opens tokens of any of its keys. It is immutable and safe for concurrent use.
type Keys struct {
	byID map[string]cipher.AEAD
}

// NewKeys takes 32-byte secrets by key id.
func NewKeys(secrets map[string][]byte) (*Keys, error) {
	keys := &Keys{byID: make(map[string]cipher.AEAD, len(secrets))}
	for kid, secret := range secrets {
		if len(secret) != keyBytes {
			return nil, fmt.Errorf("token key %q: %d bytes, must be %d", kid, len(secret), keyBytes)
		}
		block, err := aes.NewCipher(secret)
		if err != nil {
			return nil, err
		}
		if keys.byID[kid], err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// Open returns the claims of an authentic token. It does not judge them: VM, generation, expiry and ports are the caller's to check.
// Every error is an ErrUnreadable.
func (k *Keys) Open(text string) (Claims, error) {
	claims, err := k.open(text)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return claims, nil
}

func (k *Keys) open(text string) (Claims, error) {
	if len(text) > maxLength {
		return Claims{}, errors.New("too long")
	}
	parts := strings.Split(text, ".")
	if len(parts) != 5 || parts[1] != "" {
		return Claims{}, errors.New("not five parts with an empty key")
	}
	aead, err := k.find(parts[0])
	if err != nil {
		return Claims{}, err
	}
	iv, sealed, err := decode(parts)
	if err != nil {
		return Claims{}, err
	}
	plain, err := aead.Open(nil, iv, sealed, []byte(parts[0]))
	if err != nil {
		return Claims{}, err
	}
	return parse(plain)
}

func (k *Keys) find(part string) (cipher.AEAD, error) {
	raw, err := encoding.DecodeString(part)
	if err != nil {
		return nil, err
	}
	var header struct {
		Kid string `json:"kid"`
		Alg string `json:"alg"`
		Enc string `json:"enc"`
	}
	if err := json.Unmarshal(raw, &header); err != nil {
		return nil, err
	}
	if header.Alg != "dir" || header.Enc != "A256GCM" {
		return nil, fmt.Errorf("algorithm %q, %q", header.Alg, header.Enc)
	}
	aead, known := k.byID[header.Kid]
	if !known {
		return nil, fmt.Errorf("unknown key %q", header.Kid)
	}
	return aead, nil
}

// decode returns the IV, and ciphertext and tag joined.
func decode(parts []string) (iv, sealed []byte, err error) {
	if iv, err = encoding.DecodeString(parts[2]); err != nil {
		return nil, nil, err
	}
	if sealed, err = encoding.DecodeString(parts[3]); err != nil {
		return nil, nil, err
	}
	tag, err := encoding.DecodeString(parts[4])
	if err != nil {
		return nil, nil, err
	}
	if len(iv) != ivBytes || len(tag) != tagBytes {
		return nil, nil, fmt.Errorf("iv of %d bytes, tag of %d", len(iv), len(tag))
	}
	return iv, append(sealed, tag...), nil
}

func parse(plain []byte) (Claims, error) {
	var claims Claims
	if err := json.Unmarshal(plain, &claims); err != nil {
		return Claims{}, err
	}
	if claims.VM == "" || claims.ExpiresAtS == 0 {
		return Claims{}, errors.New("claims without vm or exp")
	}
	return claims, nil
}
