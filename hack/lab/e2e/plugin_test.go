package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/world"
)

// plugin returns what runs kubectl belfry as the admin: what it prints, complaints
// included, and how it ends.
func plugin(t *testing.T, l *lab.Lab) func(args ...string) (output string, code int) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "kubectl-belfry")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../../cmd/kubectl-belfry").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return func(args ...string) (string, int) {
		t.Helper()
		args = append([]string{binary, "--kubeconfig", l.Cluster.AdminKubeconfig()}, args...)
		out, err := l.Network.Command(t.Context(), lab.ControlPlane, args...).CombinedOutput()
		var ended *exec.ExitError
		if err != nil && !errors.As(err, &ended) {
			t.Fatal(err)
		}
		if ended != nil {
			return string(out), ended.ExitCode()
		}
		return string(out), 0
	}
}

// What the plugin says of a cluster is so, what it plans then happens, and what its verbs
// ask for is done.
func TestThePluginTellsAndDoesWhatHappensOnTheWire(t *testing.T) {
	l := cluster(t)
	belfry := plugin(t, l)
	addresses := serve(t, l, "plugged")
	probes := probeAll(t, l, addresses)
	owners := func() (all []string) {
		for _, p := range probes {
			all = append(all, answers(t, p, 10*time.Second, anybody))
		}
		return all
	}
	explained := func(what string, want ...string) {
		t.Helper()
		eventually(t, 30*time.Second, what, func() error {
			out, code := belfry("explain", "plugged")
			for _, w := range want {
				if code != 0 || !strings.Contains(out, w) {
					return fmt.Errorf("explain ends with %d, without %q:\n%s", code, w, out)
				}
			}
			return nil
		})
	}
	own := owners()
	explained("it says who answers, and that the segment agrees",
		"Node "+own[0]+" answers for it", own[0]+" alone answers: verified", "Node "+own[1]+" answers for it", own[1]+" alone answers: verified")
	if out, code := belfry("status"); code == 2 || !strings.Contains(out, "3 of 3 nodes") || !strings.Contains(out, "led by controller/") {
		t.Errorf("status ends with %d:\n%s", code, out)
	}

	// A drained node's addresses go where the plan says.
	leaver := own[0]
	out, code := belfry("plan", "drain", leaver, "-o", "json")
	var plan world.Plan
	if err := json.Unmarshal([]byte(out), &plan); err != nil || code != 0 {
		t.Fatalf("plan ends with %d: %v\n%s", code, err, out)
	}
	want := slices.Clone(own)
	for i, a := range addresses {
		for _, c := range plan.Changes {
			if c.Service == "default/plugged" && c.Address == a.String() && c.Verb == world.Moves {
				want[i] = strings.TrimPrefix(c.To, "node ")
			}
		}
	}
	if want[0] == leaver {
		t.Fatalf("the plan leaves %v where it is: %s", addresses[0], out)
	}
	t.Cleanup(func() { _ = undrain(context.Background(), l, leaver) })
	if out, code := belfry("drain", leaver); code != 0 {
		t.Fatalf("drain ends with %d:\n%s", code, out)
	}
	for i, p := range probes {
		answers(t, p, 10*time.Second, only(want[i]))
	}
	explained("it says where they have gone", "Node "+want[0]+" answers for it", eligibility.Draining.Sentence())
	if out, code := belfry("undrain", leaver); code != 0 {
		t.Errorf("undrain ends with %d:\n%s", code, out)
	}
	// A Service goes to the node that is asked for, back to where it was.
	explained("the node may announce again", leaver+"  -    "+eligibility.Lost.Sentence())
	if out, code := belfry("move", "plugged", leaver); code != 0 {
		t.Errorf("move ends with %d:\n%s", code, out)
	}
	for _, p := range probes {
		answers(t, p, 10*time.Second, only(leaver))
	}
}
