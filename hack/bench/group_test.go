package main

import (
	"os"
	"os/exec"
	"testing"
)

// A process that takes 40 MB in a group is counted there; this one is not.
func TestWhatBeginsInAGroupCountsThere(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("making control groups needs root")
	}
	t.Chdir("../..")
	limit, err := shippedLimit("speaker.yaml")
	if err != nil || limit < 64<<20 {
		t.Fatal(limit, err)
	}
	g, err := newGroup("belfry-bench-test", limit)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.remove(); err != nil {
			t.Error(err)
		}
	}()
	home, err := ownGroup()
	if err != nil {
		t.Fatal(err)
	}
	took := exec.Command("sh", "-c", `x=$(head -c 40000000 /dev/zero | tr '\0' 'a'); sleep 0`)
	if err := g.begin(took.Start); err != nil {
		t.Fatal(err)
	}
	if err := took.Wait(); err != nil {
		t.Fatal(err)
	}
	if at, err := ownGroup(); at != home {
		t.Errorf("this process is in %s, was in %s; %v", at, home, err)
	}
	if peak, err := g.peak(); err != nil || peak < 40e6 || peak > float64(limit) {
		t.Errorf("%.1f MB are counted, %v", peak/1e6, err)
	}
}
