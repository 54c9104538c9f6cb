package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/objects"
)

// A secretServer is an API server that has one Secret, belfry-system/belfry-gossip.
type secretServer struct{ text atomic.Pointer[string] }

// RoundTrip answers a request to read a Secret.
func (s *secretServer) RoundTrip(r *http.Request) (*http.Response, error) {
	var object any
	code := http.StatusOK
	if r.URL.Path == "/api/v1/namespaces/belfry-system/secrets/belfry-gossip" {
		object = &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
			Data:     map[string][]byte{objects.GossipKey: []byte(*s.text.Load())},
		}
	} else {
		code = http.StatusNotFound
		object = &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: "NotFound", Code: 404}
	}
	body, err := json.Marshal(object)
	return &http.Response{
		StatusCode: code, Request: r, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(body)),
	}, err
}

// client returns the client of an API server with that Secret.
func (s *secretServer) client(t *testing.T, text string) *CoreClient {
	t.Helper()
	s.text.Store(&text)
	c, err := NewCoreClient(&rest.Config{Host: "http://server", Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func begin(ctx context.Context, client *CoreClient, secret string) (gossipkey.Ring, error) {
	ring, _, err := NewGossipKeys(client, "belfry-system", secret, slog.New(slog.DiscardHandler)).Begin(ctx, func(context.Context) {})
	return ring, err
}

func TestTheGossipKeyIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &secretServer{}
		client := server.client(t, "too short")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := begin(ctx, client, "belfry-gossip"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "9 bytes") {
			t.Errorf("a short key: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := begin(ctx, client, "other"); err == nil || !strings.Contains(err.Error(), "not created it yet") {
			t.Errorf("no Secret: %v", err)
		}
		go func() {
			time.Sleep(time.Minute)
			text := "0123456789abcdefghijklmn"
			server.text.Store(&text)
		}()
		start := time.Now()
		if _, err := begin(t.Context(), client, "belfry-gossip"); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < time.Minute || took > time.Minute+5*time.Second {
			t.Errorf("found after %v", took)
		}
	})
}
