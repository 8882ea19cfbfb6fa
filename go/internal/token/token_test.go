package token

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"testing"
)

type golden struct {
	Keys map[string]string `json:"keys"`
	Good []struct {
		Name   string
		Token  string
		Claims Claims
	}
	Bad []struct{ Name, Token string }
}

func load(t testing.TB) (golden, *Keys) {
	t.Helper()
	raw, err := os.ReadFile("../../../tests/golden/tokens.json")
	if err != nil {
		t.Fatal(err)
	}
	var file golden
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	secrets := map[string][]byte{}
	for kid, text := range file.Keys {
		if secrets[kid], err = base64.StdEncoding.DecodeString(text); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := NewKeys(secrets)
	if err != nil {
		t.Fatal(err)
	}
	if len(file.Good) < 3 || len(file.Bad) < 10 {
		t.Fatalf("golden file has %d good and %d bad tokens", len(file.Good), len(file.Bad))
	}
	return file, keys
}

func TestGoodTokens(t *testing.T) {
	file, keys := load(t)
	for _, c := range file.Good {
		claims, err := keys.Open(c.Token)
		if err != nil || !reflect.DeepEqual(claims, c.Claims) {
			t.Errorf("%s: %+v, %v; want %+v", c.Name, claims, err, c.Claims)
		}
	}
}

func TestBadTokens(t *testing.T) {
	file, keys := load(t)
	for _, c := range file.Bad {
		if claims, err := keys.Open(c.Token); !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: %+v, %v; want ErrUnreadable", c.Name, claims, err)
		}
	}
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	file, keys := load(t)
	text := []byte(file.Good[0].Token)
	for i := range text {
		for bit := range 7 {
			text[i] ^= 1 << bit
			if _, err := keys.Open(string(text)); err == nil {
				t.Errorf("byte %d bit %d flipped: accepted", i, bit)
			}
			text[i] ^= 1 << bit
		}
	}
}

func TestAllows(t *testing.T) {
	claims := Claims{Ports: [][2]int{{8080, 8080}, {9000, 9002}}}
	for port, want := range map[int]bool{8080: true, 8081: false, 9000: true, 9002: true, 9003: false, 8999: false, 80: false} {
		if claims.Allows(port) != want {
			t.Errorf("port %d: %v", port, !want)
		}
	}
}

func TestKeyLength(t *testing.T) {
	if _, err := NewKeys(map[string][]byte{"k": make([]byte, 16)}); err == nil {
		t.Error("a 16-byte key was taken")
	}
}

func FuzzOpen(f *testing.F) {
	file, keys := load(f)
	for _, c := range file.Bad {
		f.Add(c.Token)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := keys.Open(text); err != nil && !errors.Is(err, ErrUnreadable) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	file, keys := load(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := keys.Open(file.Good[0].Token); err != nil {
			b.Fatal(err)
		}
	}
}
