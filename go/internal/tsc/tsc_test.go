package tsc

import (
	"errors"
	"testing"
)

func TestRateIsTicksPerMillisecond(t *testing.T) {
	if got := kHz(sample{1000, 500}, sample{1000 + 2_596_009, 500 + 1_000_000}); got != 2_596_009 {
		t.Fatalf("got %d", got)
	}
}

func TestTwoMeasurementsAgree(t *testing.T) {
	first, err := MeasureKHz()
	if errors.Is(err, ErrNone) {
		t.Skip(err)
	}
	second, err := MeasureKHz()
	if err != nil {
		t.Fatal(err)
	}
	if apart := max(first, second) - min(first, second); apart*1_000_000 > 100*first {
		t.Fatalf("%d and %d kHz: more than 100 ppm apart", first, second)
	}
}
