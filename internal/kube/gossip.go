package kube

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// minGossipSecret is the least length of a gossip Secret's text: 16 random
// bytes in base64. Somebody may write the Secret by hand, and a short word
// hashed is still a short word.
const minGossipSecret = 24

// ReadGossipKey returns the AES-256 key of the speakers' gossip: the SHA-256 of
// the Secret's text, all of it, so that no part of the text is the key. It waits
// until the controller has created the Secret, with a back-off, until ctx ends.
func ReadGossipKey(ctx context.Context, client *CoreClient, namespace, secret string, log *slog.Logger) ([sha256.Size]byte, error) {
	said := ""
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		key, err := readGossipKey(ctx, client, namespace, secret)
		if err == nil {
			return key, nil
		}
		if text := err.Error(); ctx.Err() == nil && text != said {
			said = text
			log.Info("waiting for the gossip Secret", "err", err)
		}
		select {
		case <-ctx.Done():
			return key, fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

func readGossipKey(ctx context.Context, client *CoreClient, namespace, secret string) (key [sha256.Size]byte, err error) {
	s, err := client.Secrets(namespace).Get(ctx, secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return key, fmt.Errorf("secret %s/%s: the controller has not created it yet", namespace, secret)
	}
	if err != nil {
		return key, fmt.Errorf("read secret %s/%s: %w", namespace, secret, err)
	}
	text := s.Data[GossipKey]
	if len(text) < minGossipSecret {
		return key, fmt.Errorf("secret %s/%s: data.%s has %d bytes, want %d random ones at least", namespace, secret, GossipKey, len(text), minGossipSecret)
	}
	return sha256.Sum256(text), nil
}
