package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// leader returns the name of the controller that leads.
func leader(t *testing.T, l *lab.Lab) string {
	t.Helper()
	var name string
	eventually(t, 40*time.Second, "a controller leads", func() error {
		for replica, process := range controllers {
			metrics, err := l.Observers.Metrics(t.Context(), lab.ControlPlane, controllerMetrics+10*replica)
			if err == nil && metrics["belfry_controller_leader"] == 1 {
				name = process
				return nil
			}
		}
		return errors.New("none says that it does")
	})
	return name
}

// quiet returns a mark in the audit log after which the product has nothing
// left to write. Nothing that it does takes longer between two writes than
// finding out whether a new address is free, telling who announces it, and
// passing it on to where it is placed: together less than three seconds.
func quiet(t *testing.T, l *lab.Lab) lab.AuditMark {
	t.Helper()
	var mark lab.AuditMark
	eventually(t, 60*time.Second, "the product has nothing left to write", func() error {
		var err error
		mark, err = l.Cluster.AuditNow()
		must(t, err)
		time.Sleep(3 * time.Second) // the silence that is looked for
		return noWrites(l, mark)
	})
	return mark
}

// noWrites tells the writes of the product since a mark, if there are any.
func noWrites(l *lab.Lab, mark lab.AuditMark) error {
	writes, err := l.Cluster.Writes(mark, lab.Namespace)
	if err != nil {
		return err
	}
	for _, w := range writes {
		err = errors.Join(err, errors.New(w.String()))
	}
	return err
}

func TestAControllerThatIsKilledAndRestartedChangesAndWritesNothing(t *testing.T) {
	l := cluster(t)
	var names []string
	before := map[string][]netip.Addr{}
	for i := range 5 {
		name := fmt.Sprintf("kept-%d", i)
		names = append(names, name)
		before[name] = serve(t, l, name)
	}
	first := leader(t, l)
	mark := quiet(t, l)
	p, err := l.Processes.Process(first)
	must(t, err)
	must(t, p.Kill(t.Context()))
	must(t, l.Processes.Restart(t.Context(), first))
	second := leader(t, l)
	t.Logf("%s led and was killed, then %s led", first, second)
	// It has looked at the world once more when it has planned for a new
	// Service; everything before that must be as it was, and unwritten.
	since, err := l.Cluster.AuditNow()
	must(t, err)
	if err := noWrites(l, mark); err != nil {
		t.Errorf("written over the restart:\n%v", err)
	}
	newcomer := serve(t, l, "newcomer")
	writes, err := l.Cluster.Writes(since, lab.Namespace)
	must(t, err)
	if !slices.ContainsFunc(writes, func(w lab.AuditEvent) bool { return w.ObjectRef.Name == "newcomer" }) {
		t.Errorf("no write for the new Service is in the audit log: the check sees nothing; it has %v", writes)
	}
	for _, w := range writes {
		if slices.Contains(names, w.ObjectRef.Name) {
			t.Errorf("written for a Service that was served already: %s", w)
		}
	}
	for _, name := range names {
		if got := ingress(t, l, name); !slices.Equal(got, before[name]) {
			t.Errorf("%s had %v and has %v", name, before[name], got)
		}
		for _, a := range before[name] {
			if slices.Contains(newcomer, a) {
				t.Errorf("%s of %s was given to another", a, name)
			}
		}
	}
}

func TestAConvergedClusterReconciledAgainIsNotWrittenTo(t *testing.T) {
	l := cluster(t)
	serve(t, l, "converged")
	if noWrites(l, 0) == nil {
		t.Fatal("the audit log has no write at all: the check sees nothing")
	}
	controller := leader(t, l)
	mark := quiet(t, l)
	// Make everybody look again, and have nothing to say: foreign changes to
	// our Service, to a Node, to the pool and to who announces it.
	for _, args := range [][]string{
		{"annotate", "service", "converged", "example.com/touched=1"},
		{"label", "node", "node1", "example.com/touched=1"},
		{"label", "ipaddresspool", "edge", "example.com/touched=1"},
		{"label", "l2advertisement", "edge", "example.com/touched=1"},
	} {
		_, err := l.Cluster.Kubectl(t.Context(), args...)
		must(t, err)
	}
	if again := leader(t, l); again != controller {
		t.Errorf("the leader changed from %s to %s meanwhile", controller, again)
	}
	// Whatever they would write, they would write within moments.
	time.Sleep(3 * time.Second) // the silence that is asserted
	if err := noWrites(l, mark); err != nil {
		t.Errorf("a converged cluster was written to:\n%v", err)
	}
}
