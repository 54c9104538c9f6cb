package controller_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// nodes creates nodes that go with the test.
func (w *world) nodes(names ...string) {
	w.Helper()
	for _, name := range names {
		_, err := w.core.CoreV1().Nodes().Create(w.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		w.must(err)
		w.Cleanup(func() {
			_ = w.core.CoreV1().Nodes().Delete(context.WithoutCancel(w.Context()), name, metav1.DeleteOptions{})
		})
	}
}

// advertise creates an advertisement of everything.
func (w *world) advertise(edit ...func(*v1beta1.L2AdvertisementSpec)) {
	w.Helper()
	ad := &v1beta1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}}
	for _, e := range edit {
		e(&ad.Spec)
	}
	_, err := w.own.BelfryV1beta1().L2Advertisements().Create(w.Context(), ad, metav1.CreateOptions{})
	w.must(err)
}

// placed returns where the addresses of every Service are placed, and how many
// addresses each node has.
func (w *world) placed() (byService map[string]string, load map[string]int) {
	w.Helper()
	list, err := w.core.CoreV1().Services("default").List(w.Context(), metav1.ListOptions{})
	w.must(err)
	byService, load = map[string]string{}, map[string]int{}
	for _, s := range list.Items {
		in := s.Status.LoadBalancer.Ingress
		value := s.Annotations["belfry.dev/l2-node"]
		if len(in) == 0 {
			continue
		}
		byService[s.Name] = value
		nodes := strings.Split(value, ",")
		for i := range in {
			load[nodes[min(i, len(nodes)-1)]]++
		}
	}
	return byService, load
}

// spread waits until the nodes have so many addresses.
func (w *world) spread(want map[string]int) {
	w.Helper()
	w.eventually(fmt.Sprintf("the nodes have %v", want), func() (string, bool) {
		_, load := w.placed()
		return fmt.Sprint(load), maps.Equal(load, want)
	})
}

// writesOf returns how often each Service was written since a mark.
func (w *world) writesOf(writes []string) map[string]int {
	n := map[string]int{}
	for _, e := range writes {
		if _, rest, ok := strings.Cut(e, "/services/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			n[name]++
		}
	}
	return n
}

func TestPlacesAddressesEvenlyWithTheAssignment(t *testing.T) {
	w := newWorld(t)
	w.nodes("node2", "node3")
	w.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
	w.advertise()
	w.start("a")
	mark := w.mark()
	for i := range 30 {
		w.expose(fmt.Sprintf("web-%d", i), dualStack)
	}
	w.spread(map[string]int{"node1": 20, "node2": 20, "node3": 20})
	w.settled()
	for name, n := range w.writesOf(w.writes(mark)) {
		if n != 1 {
			t.Errorf("service %s took %d writes, want 1", name, n)
		}
	}
	byService, _ := w.placed()
	if !slices.ContainsFunc(slices.Collect(maps.Values(byService)), func(s string) bool { return strings.Contains(s, ",") }) {
		t.Errorf("each address has a place of its own, yet no service has two: %v", byService)
	}
}

func TestPlacesStayMoveAndFollow(t *testing.T) {
	w := newWorld(t)
	w.nodes("node2", "node3")
	w.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
	w.advertise()
	a := w.start("a")
	for i := range 6 {
		w.expose(fmt.Sprintf("web-%d", i), dualStack)
	}
	w.spread(map[string]int{"node1": 4, "node2": 4, "node3": 4})
	w.settled()

	// A node that joins changes nothing. Neither does a leader that starts anew.
	before, _ := w.placed()
	mark := w.mark()
	w.nodes("node4")
	w.settled()
	w.stop(a)
	w.start("b")
	w.expose("late", dualStack)
	w.spread(map[string]int{"node1": 4, "node2": 4, "node3": 4, "node4": 2})
	w.settled()
	after, _ := w.placed()
	delete(after, "late")
	if !maps.Equal(before, after) || !maps.Equal(w.writesOf(w.writes(mark)), map[string]int{"late": 1}) {
		t.Errorf("places %v, before %v; writes:\n%s", after, before, strings.Join(w.writes(mark), "\n"))
	}

	// It goes where it is asked to go, in one write, and is counted there.
	mark = w.mark()
	w.patch("web-0", `{"metadata":{"annotations":{"belfry.dev/move-to":"node4"}}}`)
	w.settled()
	if now, _ := w.placed(); now["web-0"] != "node4" || !maps.Equal(w.writesOf(w.writes(mark)), map[string]int{"web-0": 1}) {
		t.Errorf("web-0 is on %s after\n%s", now["web-0"], strings.Join(w.writes(mark), "\n"))
	}

	// What the annotation says that tells of the place moves nothing.
	for _, forged := range []string{`"node1"`, "null"} {
		w.patch("web-0", `{"metadata":{"annotations":{"belfry.dev/l2-node":`+forged+`}}}`)
		w.eventually("web-0 is told to be where it is", func() (string, bool) {
			now, _ := w.placed()
			return now["web-0"], now["web-0"] == "node4"
		})
	}
	w.settled()

	// A node that goes moves its own addresses only.
	before, _ = w.placed()
	mark = w.mark()
	w.must(w.core.CoreV1().Nodes().Delete(t.Context(), "node2", metav1.DeleteOptions{}))
	w.eventually("nothing is placed on node2", func() (string, bool) {
		_, load := w.placed()
		return fmt.Sprint(load), load["node2"] == 0
	})
	w.settled()
	after, load := w.placed()
	writes := w.writesOf(w.writes(mark))
	for name := range after {
		want := 0
		if strings.Contains(before[name], "node2") {
			want = 1
		}
		if writes[name] != want || want == 0 && before[name] != after[name] {
			t.Errorf("%s goes from %s to %s in %d writes", name, before[name], after[name], writes[name])
		}
	}
	if least, most := min(load["node1"], load["node3"], load["node4"]), max(load["node1"], load["node3"], load["node4"]); most-least > 1 {
		t.Errorf("uneven: %v", load)
	}

	// Without an advertisement there is no place, and no write for it alone.
	mark = w.mark()
	w.must(w.own.BelfryV1beta1().L2Advertisements().Delete(t.Context(), "all", metav1.DeleteOptions{}))
	w.spread(map[string]int{"": 14})
	w.settled()
	for name, n := range w.writesOf(w.writes(mark)) {
		if n != 1 {
			t.Errorf("service %s took %d writes, want 1", name, n)
		}
	}
}

func TestServicesThatShareAnAddressAgreeOnItsPlace(t *testing.T) {
	w := newWorld(t)
	w.nodes("node2", "node3")
	w.pool("edge", nil, "192.0.2.0/24", "2001:db8::/120")
	w.advertise()
	w.start("a")
	for i := range 4 {
		w.expose(fmt.Sprintf("web-%d", i), dualStack, annotated("belfry.dev/allow-shared-ip", "key"), func(s *corev1.Service) {
			s.Spec.Ports[0].Port = int32(80 + i)
		})
	}
	agreed := func(on string) {
		t.Helper()
		w.eventually("all are placed alike "+on, func() (string, bool) {
			byService, _ := w.placed()
			values := slices.Compact(slices.Sorted(maps.Values(byService)))
			return fmt.Sprint(byService), len(byService) == 4 && len(values) == 1 && values[0] != "" && (on == "" || values[0] == on)
		})
	}
	agreed("")
	for _, on := range []string{"node3", "node1"} {
		w.patch("web-2", `{"metadata":{"annotations":{"belfry.dev/move-to":"`+on+`"}}}`)
		agreed(on)
	}
	w.settled()
	agreed("node1")
}

// rebalance asks for it.
func (w *world) rebalance(token string) {
	w.Helper()
	_, err := w.own.BelfryV1beta1().L2Advertisements().Patch(w.Context(), "all", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"belfry.dev/rebalance":"`+token+`"}}}`), metav1.PatchOptions{})
	w.must(err)
}

// rebalanced waits until so much is left of a request.
func (w *world) rebalanced(token string, left int32) {
	w.Helper()
	w.eventually(fmt.Sprintf("%d moves are left for %s", left, token), func() (string, bool) {
		ad, err := w.own.BelfryV1beta1().L2Advertisements().Get(w.Context(), "all", metav1.GetOptions{})
		w.must(err)
		s := ad.Status.Rebalance
		return fmt.Sprintf("%+v", s), s != nil && *s == v1beta1.RebalanceStatus{Token: token, Remaining: left}
	})
}

func TestRebalancesOnRequestInSteps(t *testing.T) {
	const services = 45
	w := newWorld(t)
	w.nodes("node2")
	w.pool("edge", nil, "192.0.2.0/24")
	w.advertise()
	a := w.start("a")
	for i := range services {
		w.expose(fmt.Sprintf("web-%d", i))
	}
	w.eventually("all are placed", func() (string, bool) {
		_, load := w.placed()
		return fmt.Sprint(load), load["node1"]+load["node2"] == services
	})
	w.nodes("node3")
	w.settled()
	mark := w.mark()

	// The leader is replaced between two steps; the next one goes on.
	w.rebalance("monday")
	w.rebalanced("monday", 5)
	w.stop(a)
	w.start("b")
	w.rebalanced("monday", 0)
	w.spread(map[string]int{"node1": 15, "node2": 15, "node3": 15})
	w.settled()
	moved := w.writesOf(w.writes(mark))
	for name, n := range moved {
		if n != 1 {
			t.Errorf("%s was written %d times", name, n)
		}
	}
	if len(moved) != 15 {
		t.Errorf("%d services were written to for 15 moves: %v", len(moved), moved)
	}

	// A new request with nothing to do is honored at once.
	mark = w.mark()
	w.rebalance("tuesday")
	w.rebalanced("tuesday", 0)
	w.settled()
	if writes := w.writes(mark); len(writes) != 1 {
		t.Errorf("writes:\n%s", strings.Join(writes, "\n"))
	}
}
