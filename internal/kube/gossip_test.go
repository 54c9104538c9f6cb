package kube

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func gossipSecret(text string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "belfry-system", Name: "belfry-gossip"},
		Data:       map[string][]byte{GossipKey: []byte(text)},
	}
}

// The value is what `printf 0123456789abcdefghijklmn | sha256sum` prints.
func TestTheGossipKeyIsTheHashOfTheWholeText(t *testing.T) {
	got, err := ReadGossipKey(t.Context(), fake.NewClientset(gossipSecret("0123456789abcdefghijklmn")), "belfry-system", "belfry-gossip", slog.New(slog.DiscardHandler))
	if want := "d5ea2aa9223ac1fa43ccec70b30962690fcfc6686857f99a0c4b2963cf8bee4b"; err != nil || hex.EncodeToString(got[:]) != want {
		t.Errorf("%x, %v; want %s", got, err, want)
	}
}

func TestTheGossipKeyIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(gossipSecret("too short"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := ReadGossipKey(ctx, client, "belfry-system", "belfry-gossip", slog.New(slog.DiscardHandler)); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "9 bytes") {
			t.Errorf("a short key: %v", err)
		}
		if _, err := ReadGossipKey(ctx, client, "belfry-system", "other", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "not created it yet") {
			t.Errorf("no Secret: %v", err)
		}
		go func() {
			time.Sleep(time.Minute)
			if err := client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("secrets"), gossipSecret("0123456789abcdefghijklmn"), "belfry-system"); err != nil {
				t.Error(err)
			}
		}()
		start := time.Now()
		if _, err := ReadGossipKey(t.Context(), client, "belfry-system", "belfry-gossip", slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < time.Minute || took > time.Minute+5*time.Second {
			t.Errorf("found after %v", took)
		}
	})
}
