package kube

import (
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// A SpeakerStatus is news to the controller when a session is.
func TestWhatIsNoSessionIsNoNewsOfOne(t *testing.T) {
	c := &Cluster{signal: make(chan struct{}, 1)}
	var mu sync.Mutex
	c.sessions = newTable(&mu, as(reduceSessions), c.sessionsChanged, func() {})
	version := 0
	var said v1beta1.SpeakerStatusStatus
	for _, step := range []struct {
		what   string
		change func(*v1beta1.SpeakerStatusStatus)
		news   bool
	}{
		{"nothing at all", func(*v1beta1.SpeakerStatusStatus) {}, false},
		{"an address", func(s *v1beta1.SpeakerStatusStatus) { s.Layer2.Total = 7 }, false},
		{"a session to hold", func(s *v1beta1.SpeakerStatusStatus) {
			s.BGP.Sessions = append(s.BGP.Sessions, v1beta1.SessionStatus{Peer: "tor", State: v1beta1.SessionConnect})
		}, true},
		{"why it is not there", func(s *v1beta1.SpeakerStatusStatus) { s.BGP.Sessions[0].LastError = "connection refused" }, false},
		{"it is there", func(s *v1beta1.SpeakerStatusStatus) { s.BGP.Sessions[0].State = v1beta1.SessionEstablished }, true},
		{"what it said", func(s *v1beta1.SpeakerStatusStatus) { s.BGP.Sessions[0].PrefixesSent = 3 }, false},
		{"it is to be held no more", func(s *v1beta1.SpeakerStatusStatus) { s.BGP.Sessions = nil }, true},
	} {
		version++
		status := v1beta1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node1", UID: "u", ResourceVersion: string(rune('0' + version))}}
		step.change(&said)
		said.DeepCopyInto(&status.Status)
		c.changes.sessions = false
		if err := c.sessions.Update(&status); err != nil {
			t.Fatal(err)
		}
		if c.changes.sessions != step.news {
			t.Errorf("%s: news is %v", step.what, c.changes.sessions)
		}
	}
}
