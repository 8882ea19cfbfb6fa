package jail

import (
	"strings"
	"testing"
)

func TestSpecificationsThatAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"an unknown member":     `{"argv":["/x"],"tree":"/t","limit":{}}`,
		"no program":            `{"argv":[],"tree":"/t"}`,
		"a relative program":    `{"argv":["x"],"tree":"/t"}`,
		"a relative tree":       `{"argv":["/x"],"tree":"t"}`,
		"root as the uid":       `{"argv":["/x"],"tree":"/t","uid":0}`,
		"a relative source":     `{"argv":["/x"],"tree":"/t","binds":[{"source":"a","target":"/a"}]}`,
		"a target that climbs":  `{"argv":["/x"],"tree":"/t","binds":[{"source":"/a","target":"/a/../../b"}]}`,
		"a target in the tree":  `{"argv":["/x"],"tree":"/t","binds":[{"source":"/a","target":"/usr/bin/qemu"}]}`,
		"nothing":               ``,
		"half a specification":  `{"argv":["/x"],"tr`,
		"a value of wrong kind": `{"argv":"/x","tree":"/t"}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Decode(strings.NewReader(text)); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func TestBindsAreReadOnlyUnlessSaidOtherwise(t *testing.T) {
	if (Bind{}).attributes()&attrReadOnly == 0 {
		t.Fatal("a plain bind is writable")
	}
	if (Bind{Writable: true}).attributes()&attrReadOnly != 0 {
		t.Fatal("a writable bind is read-only")
	}
	if (Bind{}).attributes()&attrNoDev == 0 || (Bind{Device: true}).attributes()&attrNoDev != 0 {
		t.Fatal("only devices may be devices")
	}
}

func TestStartedTicksOfAProgramWithAnUglyName(t *testing.T) {
	stat := "4242 (a) b (c) S 1 4242 4242 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3"
	got, err := parseStartedTicks(stat)
	if err != nil || got != 987654 {
		t.Fatalf("got %d, %v", got, err)
	}
	if _, err := parseStartedTicks("4242 nonsense"); err == nil {
		t.Fatal("accepted a line without a name")
	}
}
