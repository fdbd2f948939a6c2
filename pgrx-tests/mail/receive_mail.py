"""An SMTP server (aiosmtpd) that keeps each mail as a file, and misbehaves where files in its folder say so.

receive_mail.py PORT FOLDER [starttls|tls]: mails go to FOLDER/mails. While FOLDER/NAME is there, mails to NAME@... are treated so:
busy: 451; hang: no answer, which FOLDER/hangs tells; close: the connection ends within the mail. Mails to refused@... are answered
550 always. With starttls or tls, who sends must encrypt (FOLDER/certificate.pem, FOLDER/key.pem); with starttls also log in, as shop.
"""

import asyncio
import itertools
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

port, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
security = sys.argv[3] if len(sys.argv) > 3 else "none"
mails = folder / "mails"
numbers = itertools.count()


class Keeper:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refused@"):
            return "550 5.1.1 <" + address + "> is not here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        name = envelope.rcpt_tos[0].split("@")[0]
        if (folder / name).exists():
            if name == "busy":
                return "451 4.3.0 later"
            if name == "close":
                server.transport.abort()
                return "250 never heard"
            while name == "hang" and (folder / name).exists():
                (folder / "hangs").touch()
                await asyncio.sleep(0.05)
        number = next(numbers)
        written = mails / f"{number:06}.part"
        written.write_bytes(envelope.content)
        written.rename(mails / f"{number:06}.eml")
        return "250 OK"


def log_in(server, session, envelope, mechanism, data):
    return AuthResult(success=data.login == b"shop" and data.password == b"a secret")


def smtp(context):
    if security == "starttls":
        return SMTP(
            Keeper(), enable_SMTPUTF8=True, tls_context=context, require_starttls=True, auth_required=True, authenticator=log_in
        )
    return SMTP(Keeper(), enable_SMTPUTF8=True)


async def main():
    mails.mkdir(parents=True, exist_ok=True)
    context = None
    if security != "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    at_once = context if security == "tls" else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: smtp(context), "127.0.0.1", port, ssl=at_once)
    await server.serve_forever()


asyncio.run(main())
