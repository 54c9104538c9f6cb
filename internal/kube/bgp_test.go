package kube_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/objects"
)

// judgment returns what a Cluster finds about an object, and a peer's password
// as it is held.
func judgment(c *kube.Cluster, kind, name string) (reason v1beta1.Reason, password string) {
	snapshot, findings := c.Setting()
	if i := slices.IndexFunc(findings, func(v config.Finding) bool { return v.Kind == kind && v.Name == name }); i >= 0 {
		reason = findings[i].Reason()
	}
	for _, p := range snapshot.BGPPeers {
		if p.Name == name {
			password = p.Password.Reveal()
		}
	}
	return reason, password
}

func TestPeersFollowTheSecretsThatTheyName(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	const name, password = "tor-password", "correct horse"
	signs := b.cluster(speaker, objects.Scope{Namespace: lab.Namespace})
	judges := b.cluster(controller, objects.Scope{Role: objects.Allocating, Namespace: lab.Namespace})
	for i, address := range []v1beta1.PeerAddress{"192.0.2.1", "2001:db8::1"} {
		peer := fmt.Sprintf("tor%d", i)
		_, err := b.own.BelfryV1beta1().BGPPeers().Create(ctx, &v1beta1.BGPPeer{
			ObjectMeta: metav1.ObjectMeta{Name: peer},
			Spec: v1beta1.BGPPeerSpec{
				MyASN: 65000, PeerASN: 65001, PeerAddress: address,
				PasswordSecret: &v1beta1.SecretReference{Name: name},
			},
		}, metav1.CreateOptions{})
		b.must(err)
		b.Cleanup(func() {
			b.must(b.own.BelfryV1beta1().BGPPeers().Delete(context.Background(), peer, metav1.DeleteOptions{}))
		})
	}
	secrets := b.admin.CoreV1().Secrets(lab.Namespace)
	remove := func() { _ = secrets.Delete(context.Background(), name, metav1.DeleteOptions{}) }
	b.Cleanup(remove)
	put := func(kind corev1.SecretType, data map[string][]byte) {
		remove()
		_, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind, Data: data}, metav1.CreateOptions{})
		b.must(err)
	}
	becomes := func(want v1beta1.Reason, text, shown string) {
		t.Helper()
		for i := range 2 {
			peer := fmt.Sprintf("tor%d", i)
			b.eventually("the peer is judged", func() (string, bool) {
				reason, got := judgment(signs, kube.KindBGPPeer, peer)
				other, held := judgment(judges, kube.KindBGPPeer, peer)
				seen := fmt.Sprintf("%s %q for the speaker, %s %q for the controller", reason, got, other, held)
				return seen, reason == want && other == want && got == text && held == shown
			})
		}
	}
	becomes(v1beta1.ReasonSecretMissing, "", "")
	put(corev1.SecretTypeOpaque, map[string][]byte{"password": []byte(password)})
	becomes(v1beta1.ReasonSecretInvalid, "", "")
	put(corev1.SecretTypeBasicAuth, map[string][]byte{"username": []byte("x")})
	becomes(v1beta1.ReasonSecretInvalid, "", "")
	put(corev1.SecretTypeBasicAuth, map[string][]byte{"password": []byte(password)})
	// The controller knows how long it is, and no more.
	becomes(v1beta1.ReasonAccepted, password, "*************")
	put(corev1.SecretTypeBasicAuth, map[string][]byte{"password": []byte("rotated")})
	becomes(v1beta1.ReasonAccepted, "rotated", "*******")
	remove()
	becomes(v1beta1.ReasonSecretMissing, "", "")
}

func TestFindingsAreWrittenOnce(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	own := b.own.BelfryV1beta1()
	_, err := own.BGPAdvertisements().Create(ctx, &v1beta1.BGPAdvertisement{
		ObjectMeta: metav1.ObjectMeta{Name: "edge"}, Spec: v1beta1.BGPAdvertisementSpec{Peers: []v1beta1.ObjectName{"nobody"}},
	}, metav1.CreateOptions{})
	b.must(err)
	b.Cleanup(func() { b.must(own.BGPAdvertisements().Delete(context.Background(), "edge", metav1.DeleteOptions{})) })
	_, err = own.BFDProfiles().Create(ctx, &v1beta1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Spec: v1beta1.BFDProfileSpec{EchoMode: true}}, metav1.CreateOptions{})
	b.must(err)
	b.Cleanup(func() { b.must(own.BFDProfiles().Delete(context.Background(), "fast", metav1.DeleteOptions{})) })
	community := func(name string) {
		_, err = own.Communities().Create(ctx, &v1beta1.Community{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       v1beta1.CommunitySpec{Communities: []v1beta1.CommunityAlias{{Name: "vip", Value: "65000:1"}}},
		}, metav1.CreateOptions{})
		b.must(err)
		b.Cleanup(func() { b.must(own.Communities().Delete(context.Background(), name, metav1.DeleteOptions{})) })
	}
	community("one")
	community("two")
	c := b.cluster(controller, objects.Scope{Role: objects.Allocating, Namespace: lab.Namespace})
	_, findings := c.Setting()
	want := map[string]v1beta1.Reason{
		"BGPAdvertisement/edge": v1beta1.ReasonUnknownName, "BFDProfile/fast": v1beta1.ReasonUnsupported,
		"Community/one": v1beta1.ReasonDuplicateName, "Community/two": v1beta1.ReasonDuplicateName,
	}
	for _, v := range findings {
		reason, ours := want[v.Kind+"/"+v.Name]
		if !ours {
			continue
		}
		delete(want, v.Kind+"/"+v.Name)
		f := kube.ObjectStatus{Finding: v}
		if v.Reason() != reason || c.Shows(f) {
			t.Errorf("%s %s is %s, shown: %v", v.Kind, v.Name, v.Reason(), c.Shows(f))
		}
		if outcome, err := c.WriteObjectStatus(ctx, f); outcome != kube.Done {
			t.Errorf("%s %s: %v, %v", v.Kind, v.Name, outcome, err)
		}
		_, conditions, ok := c.Judged(v.Kind, v.Name)
		if !ok || len(conditions) != 1 || conditions[0].Reason != string(reason) || !c.Shows(f) {
			t.Errorf("%s %s shows %v", v.Kind, v.Name, conditions)
		}
		if outcome, err := c.WriteObjectStatus(ctx, f); outcome != kube.Unchanged {
			t.Errorf("%s %s again: %v, %v", v.Kind, v.Name, outcome, err)
		}
	}
	if len(want) > 0 {
		t.Errorf("not judged: %v", want)
	}
}
