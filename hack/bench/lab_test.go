package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/hack/lab"
)

// The measured program starts itself anew to talk to a router.
func TestMain(m *testing.M) {
	if os.Getenv(talking) != "" {
		if err := holdForth(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A little of everything that is measured in the lab.
func TestWhatIsMeasuredInTheLabIsMeasured(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the lab is left out")
	}
	if why := lab.Unable(); why != nil {
		if os.Getenv("BELFRY_LAB") == "required" {
			t.Fatalf("this test needs the lab: %v", why)
		}
		t.Skipf("SKIPPED, NOT PASSED: this test needs the lab: %v", why)
	}
	var out, progress bytes.Buffer
	args := []string{"--only=answer,failover,bgp,create,restart,quiet", "--services=20", "--trials=1", "--output=json"}
	if err := run(t.Context(), args, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if strings.Contains(out.String(), `"FAILED"`) {
		t.Errorf("something could not be measured:\n%s\n%s", progress.String(), out.String())
	}
}
