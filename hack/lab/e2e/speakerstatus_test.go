package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/ranges"
)

// speakerStatuses returns what the speakers say, by node.
func speakerStatuses(t *testing.T, l *lab.Lab) map[string]v1beta1.SpeakerStatus {
	t.Helper()
	out, err := l.Cluster.Kubectl(t.Context(), "get", "speakerstatuses", "-o", "json")
	must(t, err)
	var list v1beta1.SpeakerStatusList
	must(t, json.Unmarshal([]byte(out), &list))
	byNode := map[string]v1beta1.SpeakerStatus{}
	for _, s := range list.Items {
		byNode[s.Name] = s
	}
	return byNode
}

func TestEachSpeakerSaysWhatItDoes(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "told")
	eventually(t, 30*time.Second, "each SpeakerStatus says what is so", func() error {
		var errs error
		all := speakerStatuses(t, l)
		for _, node := range l.Network.Nodes() {
			s, ok := all[node]
			switch i := slices.IndexFunc(s.Status.Interfaces, func(i v1beta1.InterfaceStatus) bool { return i.Usable }); {
			case !ok:
				errs = errors.Join(errs, fmt.Errorf("%s has none", node))
			case len(s.OwnerReferences) != 1 || s.OwnerReferences[0].Kind != "Node" || s.OwnerReferences[0].Name != node:
				errs = errors.Join(errs, fmt.Errorf("%s is owned by %v", node, s.OwnerReferences))
			case int(s.Status.Membership.Alive) != len(l.Network.Nodes()) || len(s.Status.Membership.Suspected) > 0:
				errs = errors.Join(errs, fmt.Errorf("%s sees %+v", node, s.Status.Membership))
			case i < 0 || s.Status.Interfaces[i].MAC == "" || len(s.Status.Interfaces[i].Subnets) < 2:
				errs = errors.Join(errs, fmt.Errorf("%s has the interfaces %+v", node, s.Status.Interfaces))
			case s.Status.Version == "":
				errs = errors.Join(errs, fmt.Errorf("%s has no version", node))
			}
		}
		for _, a := range addresses {
			var owners []string
			for node, s := range all {
				for _, of := range s.Status.Layer2.Answers {
					all, err := ranges.Parse(of.Addresses)
					must(t, err)
					if slices.Contains(all, a) {
						owners = append(owners, node)
					}
				}
			}
			if len(owners) != 1 {
				errs = errors.Join(errs, fmt.Errorf("%v is answered for by %v, they say", a, owners))
			}
		}
		return errs
	})
	out, err := l.Cluster.Kubectl(t.Context(), "get", "speakers")
	must(t, err)
	for _, column := range []string{"L2-ADDRESSES", "BGP-UP", "MEMBERS", "VERSION"} {
		if !strings.Contains(out, column) {
			t.Errorf("kubectl get speakers has no column %s:\n%s", column, out)
		}
	}
}

func TestASpeakerThatIsStoppedAnswersForNothingByItsStatus(t *testing.T) {
	l := cluster(t)
	for i := range 3 {
		serve(t, l, fmt.Sprintf("stopped-%d", i))
	}
	node := l.Network.Nodes()[0]
	eventually(t, 30*time.Second, "it answers for something", func() error {
		return atLeastOne(speakerStatuses(t, l)[node].Status.Layer2.Total)
	})
	p, err := l.Processes.Process(lab.SpeakerOn(node))
	must(t, err)
	must(t, p.Terminate(t.Context()))
	if s := speakerStatuses(t, l)[node].Status; s.Layer2.Total != 0 || len(s.Layer2.Answers) != 0 || s.Phase != v1beta1.SpeakerStopped {
		t.Errorf("after it stopped: %+v", s.Layer2)
	}
	must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(node)))
	eventually(t, 30*time.Second, "all see each other again", func() error {
		for node, s := range speakerStatuses(t, l) {
			if int(s.Status.Membership.Alive) != len(l.Network.Nodes()) {
				return fmt.Errorf("%s sees %+v", node, s.Status.Membership)
			}
		}
		return nil
	})
}

func atLeastOne(n int32) error {
	if n < 1 {
		return errors.New("none")
	}
	return nil
}

func TestEachSpeakerTellsOfItsSessionsAndTheirPeersAddThemUp(t *testing.T) {
	l := routedCluster(t)
	serveRouted(t, l, "told-by-bgp")
	eventually(t, 30*time.Second, "each SpeakerStatus tells of both sessions", func() error {
		var errs error
		for node, s := range speakerStatuses(t, l) {
			b := s.Status.BGP
			if b.Up != 2 || b.Total != 2 || len(b.Sessions) != 2 {
				errs = errors.Join(errs, fmt.Errorf("%s: %+v", node, b))
				continue
			}
			for i, peer := range []string{"tor4", "tor6"} {
				s := b.Sessions[i]
				if s.Peer != peer || s.State != v1beta1.SessionEstablished || s.Since == nil || s.PrefixesSent < 1 || !slices.Contains(s.Capabilities, []string{"IPv4", "IPv6"}[i]) {
					errs = errors.Join(errs, fmt.Errorf("%s: %+v", node, s))
				}
			}
		}
		return errs
	})
	for _, peer := range []string{"tor4", "tor6"} {
		eventually(t, 30*time.Second, "BGPPeer "+peer+" adds them up", func() error {
			out, err := l.Cluster.Kubectl(t.Context(), "get", "bgppeer", peer, "--output=jsonpath={.status.sessionsUp}/{.status.sessionsTotal}")
			if err == nil && out != "3/3" {
				err = fmt.Errorf("it says %s", out)
			}
			return err
		})
	}
	edited(t, l, "tor6", `{"shutdown": true}`, `{"shutdown": false}`)
	eventually(t, 30*time.Second, "the sessions that are shut down are told", func() error {
		var errs error
		for node, s := range speakerStatuses(t, l) {
			if b := s.Status.BGP; b.Up != 1 || len(b.Sessions) != 2 || b.Sessions[1].State != v1beta1.SessionShutdown {
				errs = errors.Join(errs, fmt.Errorf("%s: %+v", node, b))
			}
		}
		out, err := l.Cluster.Kubectl(t.Context(), "get", "bgppeer", "tor6", "--output=jsonpath={.status.sessionsUp}/{.status.sessionsTotal}")
		if err == nil && out != "0/3" {
			err = fmt.Errorf("the peer says %s", out)
		}
		return errors.Join(errs, err)
	})
}

// Kubernetes collects what a Node owned; and a node that returns is another Node.
func TestTheReportOfANodeGoesWithIt(t *testing.T) {
	l := cluster(t)
	const node = "node3"
	owner := func() (uid string, err error) {
		return l.Cluster.Kubectl(context.Background(), "get", "speakerstatus", node, "--ignore-not-found", "--output=jsonpath={.metadata.ownerReferences[0].uid}")
	}
	eventually(t, 30*time.Second, "the node has a report", func() error {
		uid, err := owner()
		if err == nil && uid == "" {
			err = errors.New("it has none")
		}
		return err
	})
	was, err := owner()
	must(t, err)
	_, err = l.Cluster.Kubectl(t.Context(), "delete", "node", node)
	must(t, err)
	back := sync.OnceValue(func() error { return l.Machines.RegisterNode(context.Background(), node) })
	t.Cleanup(func() { must(t, back()) })
	eventually(t, 60*time.Second, "the report is gone", func() error {
		uid, err := owner()
		if err == nil && uid != "" {
			err = errors.New("it is there")
		}
		return err
	})
	must(t, back())
	// The old token went with the old Node, as a Pod does.
	_, err = l.Cluster.KubeconfigOn(t.Context(), node, lab.Namespace, "belfry-speaker")
	must(t, err)
	p, err := l.Processes.Process(lab.SpeakerOn(node))
	must(t, err)
	must(t, p.Terminate(t.Context()))
	must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(node)))
	eventually(t, 60*time.Second, "the new Node has a report of its own", func() error {
		uid, err := owner()
		now, wrong := l.Cluster.Kubectl(t.Context(), "get", "node", node, "--output=jsonpath={.metadata.uid}")
		if err = errors.Join(err, wrong); err == nil && (uid != now || uid == was) {
			err = fmt.Errorf("it belongs to %q, the Node is %s and was %s", uid, now, was)
		}
		return err
	})
	settle(t, l)
}
