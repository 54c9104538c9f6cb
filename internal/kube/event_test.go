package kube

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func TestEventNamesAreValidForNamesOfAnyLength(t *testing.T) {
	for _, about := range []string{"a", strings.Repeat("a", 63), strings.Repeat("a", 199) + "." + strings.Repeat("b", 53), strings.Repeat("a", 198) + "-." + strings.Repeat("b", 53)} {
		got := eventName(queuedEvent{Event: Event{About: corev1.ObjectReference{Name: about}}, at: time.Unix(1<<33, 999), number: 1 << 62})
		if problems := validation.IsDNS1123Subdomain(got); len(problems) > 0 {
			t.Errorf("%s: %v", got, problems)
		}
	}
}

func TestRoutineEventsOfANamespaceAreRationed(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	event := func(namespace, name, reason string) Event {
		return Event{About: corev1.ObjectReference{Kind: "Service", Namespace: namespace, Name: name}, Reason: reason, Note: "assigned 2001:db8:51::1 from pool a"}
	}
	var r ration
	told := 0
	for i := range 1000 {
		now := start.Add(time.Duration(i) * time.Millisecond) // a second, in all
		for _, reason := range []string{"IPAllocated", "Announcing"} {
			if r.take(event("web", fmt.Sprintf("s%d", i), reason), now) {
				told++
			}
		}
	}
	if told != rationBurst {
		t.Errorf("%d of 2,000 Events within a second were told by themselves, want %d", told, rationBurst)
	}
	if !r.take(event("db", "s", "IPAllocated"), start.Add(time.Second)) {
		t.Error("one namespace's Events cost another its own")
	}
	var got []string
	for _, e := range r.rest(start.Add(rationPause)) {
		got = append(got, fmt.Sprint(e.About.Namespace, "/", e.About.Name, " ", e.Reason, ": ", e.Note))
	}
	want := []string{
		"web/s999 IPAllocated: assigned 2001:db8:51::1 from pool a (with 989 more of this reason in this namespace since 08:00:00: see each Service's conditions)",
		"web/s999 Announcing: assigned 2001:db8:51::1 from pool a (with 989 more of this reason in this namespace since 08:00:00: see each Service's conditions)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("told later:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if rest := r.rest(start.Add(time.Minute)); len(rest) > 0 || len(r.of) > 0 {
		t.Errorf("after a minute of silence %v is told, and %d namespaces are remembered", rest, len(r.of))
	}
	warning, peer := event("web", "s", "NotAnnounced"), event("", "r1", "SessionEstablished")
	warning.Warning, peer.About.Kind = true, KindBGPPeer
	for _, e := range []Event{warning, peer} {
		if e.routine() {
			t.Errorf("%s is rationed", e.Reason)
		}
	}
}

// What is left out when the program ends is told, as the rest is.
func TestEventsThatWereLeftOutAreToldAtTheEnd(t *testing.T) {
	r := NewRecorder(nil, "belfry.dev/controller", "a", slog.New(slog.DiscardHandler))
	for i := range rationBurst + 2 {
		r.Record(Event{About: corev1.ObjectReference{Kind: "Service", Namespace: "web", Name: fmt.Sprintf("s%d", i)}, Reason: "IPAllocated"})
	}
	if n := len(r.queue); n != rationBurst {
		t.Errorf("%d Events wait, want %d", n, rationBurst)
	}
	r.tellRest()
	for range rationBurst {
		<-r.queue
	}
	if e := <-r.queue; e.About.Name != fmt.Sprintf("s%d", rationBurst+1) || !strings.Contains(e.Note, "with 1 more") {
		t.Errorf("the last is %+v", e)
	}
}
