// Access: the form for a token, which is exchanged for a cookie that no script can read.

import * as api from "./api.js";
import { $, say } from "./dom.js";

/** {ask(why)}: show the form. `onSignedIn` is called when the server has taken a token. */
export function setUpSession(onSignedIn) {
  const dialog = $("session");

  $("session-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    say($("session-error"), "");
    try {
      await api.signIn($("token").value.trim());
    } catch (error) {
      say($("session-error"), error.message);
      return;
    }
    $("token").value = "";
    dialog.close();
    showSignOut();
    onSignedIn();
  });
  $("sign-out").addEventListener("click", async () => {
    await api.signOut().catch(() => {});
    location.reload();
  });
  showSignOut();

  return {
    ask(why) {
      if (why) say($("session-why"), why);
      if (!dialog.open) dialog.showModal();
    },
  };
}

async function showSignOut() {
  const found = await api.session().catch(() => null);
  $("sign-out").hidden = !found?.name;
}
